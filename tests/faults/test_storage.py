"""Disks that are full, broken, too small or read-only: exit 5 with what is needed, nothing lost, and the run goes on.

Errors are injected into every call by which a save changes the disk (as in test_kill_points.py), and met by whole runs
on small disks and under limits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from forked_runs import ForkedRuns
from save_points import Save, files_of
from workplace import make_workplace

from whet.checkpoint.load import newest_checkpoint
from whet.checkpoint.names import checkpoint_folder

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1200)]

TOTAL_STEPS = 8
WRITES = ("openat", "write", "pwrite64", "writev", "ftruncate", "fsync", "fchmodat", "chmod", "mkdir", "rename")
REMOVALS = ("unlink", "unlinkat", "rmdir")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


def before_last(uninterrupted, folder: Path) -> tuple[Path, Path]:
    """The undisturbed run's last checkpoint, and its folder right before that was written."""
    before = shutil.copytree(uninterrupted.run_folder, folder / "before")
    for path in (*before.glob("adapter_*"), before / "summary.json", before / "manifest.json"):
        path.unlink()
    shutil.rmtree(checkpoint_folder(before, TOTAL_STEPS))
    return checkpoint_folder(uninterrupted.run_folder, TOTAL_STEPS), before


@pytest.mark.parametrize(
    ("error", "fault", "words"),
    [
        ("ENOSPC", "no space left while a checkpoint is written", "no space left while saving"),
        ("EIO", "the disk fails while a checkpoint is written", "Input/output error"),
    ],
)
def test_an_error_at_any_call_of_a_save(tmp_path, uninterrupted, forked, outcome, error, fault, words):
    """Exit 5 with the reason, the older checkpoints whole, no draft left; or the save got over it and is whole."""
    source, before = before_last(uninterrupted, tmp_path)
    save = Save(forked=forked, source=source, before=before)
    scratch = tmp_path / "run"
    points = save.points(scratch, calls=WRITES)
    broken, num_refused = [], 0
    for call, number in points:
        ended = save.disturbed(scratch, call, number, f"error={error}")
        checkpoint, notes = newest_checkpoint(scratch)
        assert checkpoint is not None and notes == [], (call, number)
        num_refused += ended.code == 5
        is_refused = ended.code == 5 and words in ended.said and checkpoint.step == TOTAL_STEPS - 1
        # the rename was done, and then its folder could not be synced: both are whole
        is_late = ended.code == 5 and words in ended.said and files_of(checkpoint.folder) == files_of(source)
        is_whole = ended.code == 0 and files_of(checkpoint.folder) == files_of(source)
        if not (is_refused or is_late or is_whole) or list(scratch.glob(".checkpoint*")) or "Traceback" in ended.said:
            broken.append((call, number, ended.code, ended.said))
    outcome(
        fault=fault, group="storage", tries=len(points), held=len(points) - len(broken),
        note=f"{error} at each of {len(points)} calls: {num_refused} times exit code 5, else got over",
    )  # fmt: skip
    assert not broken, broken[0]
    assert num_refused > len(points) // 3


def test_old_checkpoints_that_cannot_be_removed_stop_nothing(tmp_path, uninterrupted, forked, outcome):
    source, before = before_last(uninterrupted, tmp_path)
    save = Save(forked=forked, source=source, before=before)
    scratch = tmp_path / "run"
    points = save.points(scratch, calls=REMOVALS)
    assert points
    broken = []
    for call, number in points:
        ended = save.disturbed(scratch, call, number, "error=EIO")
        checkpoint, notes = newest_checkpoint(scratch)
        is_whole = checkpoint is not None and files_of(checkpoint.folder) == files_of(source) and notes == []
        if ended.code != 0 or not is_whole or "could not be removed" not in ended.said:
            broken.append((call, number, ended.code, ended.said))
    outcome(
        fault="an old checkpoint cannot be removed", group="storage", tries=len(points),
        held=len(points) - len(broken), lost="nothing", note="a warning; the next save tries again",
    )  # fmt: skip
    assert not broken, broken[0]


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@needs_root
def test_a_disk_that_takes_no_more_files_at_any_stage_of_a_run(
    tmp_path, tiny_model, uninterrupted, forked: ForkedRuns, outcome
):
    """So many files and no more, from one to the last but one; then there is room, and the same command goes on."""
    most = 2 + sum(1 for _ in uninterrupted.run_folder.rglob("*"))
    tries, broken = 0, []
    for number in (3, 6, 9, 14, 19, 26, 33, 40, most - 2):
        place = make_workplace(tmp_path / f"try-{number}", tiny_model)
        with small_disk(place.folder / "disk", f"size=64m,nr_inodes={number}") as disk:
            place.write_recipe(output=str(disk / "run"))
            train = ("train", str(place.recipe))
            full = forked.run(*train, folder=place.folder, environment=place.environment)
            if full.code == 0:
                continue
            tries += 1
            subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=1000", str(disk)], check=True)
            ended = forked.run(*train, folder=place.folder, environment=place.environment)
            is_right = (
                full.code == 5
                and "Traceback" not in full.said
                and ended.code == 0
                and place.trajectory("disk/run") == uninterrupted.trajectory
                and place.hashes("disk/run") == uninterrupted.hashes
            )
            if not is_right:
                broken.append((number, full.code, full.said, ended.code, ended.said))
    outcome(
        fault="the disk takes no more files, at some stage of a run", group="storage", tries=tries,
        held=tries - len(broken), lost="the step at hand", note="exit code 5; with room the same command goes on",
    )  # fmt: skip
    assert not broken, broken[0]
    assert tries >= 6


def test_a_limit_on_the_size_of_files(tmp_path, tiny_model, uninterrupted, forked: ForkedRuns, outcome):
    """As `prlimit --fsize` sets it, met by different files of a run."""
    tries, broken = 0, []
    for limit in (6_000, 10_000, 20_000, 40_000, 60_000):  # what a run says has some 4,000 bytes
        place = make_workplace(tmp_path / f"try-{limit}", tiny_model)
        train = ("train", str(place.recipe))
        limits = {"RLIMIT_FSIZE": limit}
        stopped = forked.run(*train, folder=place.folder, environment=place.environment, limits=limits)
        if stopped.code == 0:
            continue
        tries += 1
        ended = forked.run(*train, folder=place.folder, environment=place.environment)
        is_right = (
            stopped.code == 5
            and "File too large" in stopped.said
            and ended.code == 0
            and place.trajectory() == uninterrupted.trajectory
            and place.hashes() == uninterrupted.hashes
        )
        if not is_right:
            broken.append((limit, stopped.code, stopped.said, ended.code, ended.said))
    outcome(
        fault="a limit on the size of files (ulimit -f)", group="storage", tries=tries, held=tries - len(broken),
        lost="the step at hand", note="exit code 5; without the limit the same command goes on",
    )  # fmt: skip
    assert not broken, broken[0]
    assert tries >= 3


@needs_root
def test_a_folder_that_may_not_be_written(workplace, outcome):
    """Before torch is imported. Rights do not stop root; tests/unit/train/test_folder.py tries them as another user."""
    folder = workplace.folder / "theirs"
    folder.mkdir()
    workplace.write_recipe(output=str(folder / "run"))
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    started = time.monotonic()
    try:
        process = workplace.start("train", str(workplace.recipe), program=("-X", "importtime", "-m", "whet"))
        said, _ = process.communicate(timeout=120)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    seconds = time.monotonic() - started
    imported = {line.rsplit("|", 1)[-1].strip() for line in said.splitlines() if line.startswith("import time:")}
    held = process.returncode == 5 and "cannot be written" in said and not imported & {"torch", "transformers"}
    outcome(
        fault="the run folder may not be written", group="storage", tries=1, held=int(held), lost="nothing",
        note=f"mounted read-only: refused in {seconds:.1f} s, torch not imported",
    )  # fmt: skip
    assert held, said[-2000:]
