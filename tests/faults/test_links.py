"""Links that somebody has put where a run writes: refused, or replaced; the file behind them is never changed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import tiny_runs

from whet import atomic
from whet.checkpoint.lock import locked
from whet.checkpoint.manifest import verify, write_manifest
from whet.checkpoint.retention import prune, remove_leftovers
from whet.checkpoint.save import save_checkpoint
from whet.errors import RecipeError, StorageError
from whet.models.folder import check_folder, weight_files
from whet.parallel.rank_log import RankLog
from whet.recipe import parse_recipe
from whet.report import write_report
from whet.tracking.jsonl import JsonlTracker
from whet.tracking.protocol import TrackedRun
from whet.train.folder import check_writable

PLACES = (
    "checkpoint-5", "checkpoint-best", "latest", ".lock", "metrics.jsonl", "report.html", "recipe.yaml", "summary.json",
    "logs", "ranks", "ranks/rank-0.json", "ranks/rank-0.log", ".final.tmp", ".checkpoint-5.1.tmp", "superseded-1",
    "evaluations", "adapter_model.safetensors", "incidents.jsonl",
)  # fmt: skip


@pytest.fixture
def victim(tmp_path):
    """A folder with a file in it, outside of the run folder; `changes()` says what became of it."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


def is_untouched(victim: Path) -> bool:
    return [path.name for path in victim.iterdir()] == ["file"] and (victim / "file").read_text() == "precious"


def test_a_run_folder_with_a_link_in_it_is_refused_before_anything_is_written(tmp_path, victim, outcome):
    held = []
    for number, place in enumerate(PLACES):
        for target in (victim, victim / "file", victim / "nothing yet"):
            run = tmp_path / f"run-{number}-{target.name}"
            (run / place).parent.mkdir(parents=True)
            (run / place).symlink_to(target)
            try:
                check_writable(run, needed_bytes=0)
                held.append(False)
            except StorageError as error:
                held.append(is_untouched(victim) and "symbolic link" in str(error) and place in str(error))
    outcome(
        fault="A symbolic link in the place of a file or folder of the run", group="security",
        tries=len(held), held=sum(held), note="refused with its name (exit 5); nothing behind it changes",
    )  # fmt: skip
    assert all(held)


def write_checkpoint(run: Path) -> None:
    save_checkpoint(run, step=5, tensors={}, documents={"state.json": {"a": 1}}, files={})


def test_a_link_that_comes_after_the_check_is_not_followed_by_what_writes(tmp_path, victim, outcome):
    """Each writer alone: a race with somebody who may write into the run folder cannot reach beyond it."""

    def append(run: Path) -> None:
        atomic.append_bytes(run / "name", b"more")

    def track(run: Path) -> None:
        (run / "name").rename(run / "metrics.jsonl")
        tracker = JsonlTracker()
        tracker.start(TrackedRun(name="a", folder=run))
        tracker.close()

    def log(run: Path) -> None:
        (run / "ranks").mkdir()
        (run / "name").rename(run / "ranks" / "rank-0.log")
        RankLog(run, rank=0, world_size=2).close(None)

    def lock(run: Path) -> None:
        (run / "name").rename(run / ".lock")
        with locked(run):
            pass

    def save(run: Path) -> None:
        (run / "name").rename(run / "checkpoint-5")
        write_checkpoint(run)

    def replace(run: Path) -> None:
        atomic.write_bytes(run / "name", b"new")

    def report(run: Path) -> None:
        (run / "name").rename(run / "report.html")
        (run / "recipe.yaml").write_text("name: a\n")
        write_report(run)

    def sweep(run: Path) -> None:
        (run / "name").rename(run / ".checkpoint-5.1.tmp")
        remove_leftovers(run)

    def retain(run: Path) -> None:
        (run / "name").rename(run / "checkpoint-1")
        for step in (2, 3, 4):
            save_checkpoint(run, step=step, tensors={}, documents={"a.json": {}}, files={})
        prune(run, keep=1)

    held = {}
    for write in (append, track, log, lock, save, replace, report, sweep, retain):
        for target in (victim, victim / "file"):
            run = tmp_path / f"{write.__name__}-{target.name}"
            run.mkdir()
            (run / "name").symlink_to(target)
            with suppress(StorageError):
                write(run)
            held[run.name] = is_untouched(victim)
    outcome(
        fault="A link put there between the check and the write", group="security",
        tries=len(held), held=sum(held.values()), note="opened with O_NOFOLLOW, replaced by a rename, or refused",
    )  # fmt: skip
    assert all(held.values()), held


def test_files_that_name_others_cannot_name_any_outside(tmp_path, victim, outcome):
    """The index of a model's shards and the manifest of a checkpoint are data, too."""
    names = ["../victim/file", str(victim / "file"), "..", ".", "", "a/../../victim/file", "~/x", "file\x00"]
    held = []
    folder = tiny_runs.write_base(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "moved")
    for name in names:
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        try:
            check_folder(folder)
            weight_files(folder)
            held.append(False)
        except (StorageError, RecipeError):
            held.append(is_untouched(victim))
    write_checkpoint(tmp_path)
    checkpoint = tmp_path / "checkpoint-5"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name in names:
        document = {
            **manifest,
            "sha256": {**manifest["sha256"], name: "0" * 64},
            "bytes": {**manifest["bytes"], name: 8},
        }
        (checkpoint / "manifest.json").write_text(json.dumps(document))
        try:
            verify(checkpoint)
            held.append(False)
        except StorageError:
            held.append(is_untouched(victim))
    write_manifest(checkpoint, step=5)
    assert verify(checkpoint).step == 5
    outcome(
        fault="A shard index or checkpoint manifest that names files elsewhere (../, absolute, NUL)", group="security",
        tries=len(held), held=sum(held), note="refused before any is opened",
    )  # fmt: skip
    assert all(held)


@pytest.mark.parametrize("output", ["{inside}/../../x", "{inside}/\x00", "{inside}/" + "n" * 300])
def test_an_output_that_no_folder_can_have_is_refused(tmp_path, output, outcome):
    """`../` is the user's own way to name a folder; what is checked is that it is one, and no link."""
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    path = output.format(inside=inside)
    before = sorted(tmp_path.iterdir())
    try:
        recipe = parse_recipe(f"name: a\noutput: {json.dumps(path)}\ndata:\n  train: [{{source: r.jsonl}}]\n")
        check_writable(Path(recipe.output), needed_bytes=0)
        held = ".." in output and (tmp_path / "x").is_dir()
    except (RecipeError, StorageError):
        held = sorted(tmp_path.iterdir()) == before
    outcome(
        fault="A run folder named with NUL, 300 characters or a link", group="security", tries=1, held=int(held),
    )  # fmt: skip
    assert held
