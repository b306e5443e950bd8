"""SIGKILL before every single call by which a save changes the disk: a whole checkpoint is always there.

After each kill the newest checkpoint must be the older or the newer one, byte for byte. What distinguishes the states
for whoever continues are a handful of kinds (a draft, half of one, an old folder half removed ...): from one state of
each kind the run is continued to its end.
"""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from forked_runs import ForkedRuns
from save_points import CALLS, Save, files_of, kind_of_remains
from workplace import Uninterrupted, make_workplace

from whet.checkpoint.load import newest_checkpoint
from whet.checkpoint.names import checkpoint_folder

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
pytestmark = [needs_strace, pytest.mark.timeout(1200)]

TOTAL_STEPS = 8
KILL = "signal=SIGKILL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A finished run, and its folder as it was right before its last checkpoint."""

    model: Path
    trajectory: list[tuple[object, ...]]
    hashes: dict[str, str]
    before: Path
    source: Path
    """the last checkpoint"""
    sections: dict[str, object] = field(default_factory=dict)
    """of the recipe, where it is not the standard one"""


def right_before_the_end(run: Path, folder: Path) -> tuple[Path, Path]:
    """The last checkpoint of a finished run, and a copy of its folder as it was when that was due."""
    before = shutil.copytree(run, folder / "before")
    finals = [*before.glob("adapter_*"), *before.glob("model*.safetensors*"), before / "summary.json"]
    for path in (*finals, before / "manifest.json"):
        path.unlink()
    shutil.rmtree(checkpoint_folder(before, TOTAL_STEPS))
    assert checkpoint_folder(before, TOTAL_STEPS - 2).is_dir(), "the save has an old checkpoint to remove"
    return checkpoint_folder(run, TOTAL_STEPS), before


@pytest.fixture(scope="module")
def of_an_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, uninterrupted: Uninterrupted) -> Scene:
    source, before = right_before_the_end(uninterrupted.run_folder, tmp_path_factory.mktemp("adapter"))
    return Scene(
        model=tiny_model, trajectory=uninterrupted.trajectory, hashes=uninterrupted.hashes, before=before, source=source
    )


@pytest.fixture(scope="module")
def of_all_weights(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, forked: ForkedRuns) -> Scene:
    whole = make_workplace(tmp_path_factory.mktemp("weights") / "place", tiny_model)
    sections: dict[str, object] = {"adapter": {"method": "none"}}
    whole.write_recipe(**sections)
    ended = forked.run(
        "train", str(whole.recipe), folder=whole.folder, environment=whole.environment, learn=True
    )  # fmt: skip
    assert ended.code == 0, ended.said
    source, before = right_before_the_end(whole.folder / "run", whole.folder)
    return Scene(
        model=tiny_model, trajectory=whole.trajectory(), hashes=whole.hashes(), before=before, source=source,
        sections=sections,
    )  # fmt: skip


def continues_as_if_never_killed(scene: Scene, run: Path, folder: Path, forked: ForkedRuns) -> bool:
    """The recipe's own command, in a workplace of its own that has a copy of `run`."""
    place = make_workplace(folder, scene.model)
    place.write_recipe(**scene.sections)
    shutil.copytree(run, folder / "run")
    ended = forked.run("train", str(place.recipe), folder=folder, environment=place.environment)
    is_right = (
        ended.code == 0
        and place.trajectory() == scene.trajectory
        and same_weights(place.hashes(), scene.hashes)
        and not list((folder / "run").rglob("*.tmp"))
    )
    shutil.rmtree(folder)
    return is_right


def same_weights(ours: dict[str, str], theirs: dict[str, str]) -> bool:
    """Final weights, and of the last checkpoint what both have: it may lie in shards, the moments too."""
    both = ours.keys() & theirs.keys()
    if any("optimizer-shard" in name for name in ours):
        both = {name for name in both if not name.endswith("/optimizer.safetensors")}
    has_final = any("/" not in name for name in both)
    return has_final and all(ours[name] == theirs[name] for name in both)


def kill_everywhere(
    scene: Scene, save: Save, scratch: Path, forked: ForkedRuns, *, every: int = 1, goes_on: bool = True
):
    """Every `every`-th point: (tried, those after which something was lost, kinds of remains, continued wrongly)."""
    lost, kinds, wrong = [], set(), []
    points = save.points(scratch)
    calls = {call for call, _ in points}
    assert {"openat", "write", "fsync"} <= calls <= set(CALLS) and {"rename", "renameat"} & calls
    # of the folder before: with one checkpoint to keep, the undisturbed save has removed the older one
    older = files_of(checkpoint_folder(save.before, TOTAL_STEPS - 1))
    newer = files_of(checkpoint_folder(scratch, TOTAL_STEPS))
    assert save.parts > 1 or newer == files_of(scene.source), "the save is not the one of the run"
    expected = {TOTAL_STEPS - 1: older, TOTAL_STEPS: newer}
    for call, number in points[::every]:
        ended = save.disturbed(scratch, call, number, KILL)
        assert ended.code == -signal.SIGKILL, (call, number, ended.said)
        checkpoint, notes = newest_checkpoint(scratch)
        if checkpoint is None or notes or files_of(checkpoint.folder) != expected[checkpoint.step]:
            lost.append((call, number, notes))
            continue
        kind = kind_of_remains(scratch, checkpoint.step)
        if kind not in kinds:
            kinds.add(kind)
            if goes_on and not continues_as_if_never_killed(scene, scratch, scratch.with_name("continued"), forked):
                wrong.append((call, number, kind))
    return points[::every], lost, kinds, wrong


def test_killed_before_some_calls_of_a_save_of_an_adapter(tmp_path, of_an_adapter, forked, outcome):
    """The quick one: whether a whole checkpoint is there is looked at, and no run is continued."""
    save = Save(forked=forked, source=of_an_adapter.source, before=of_an_adapter.before)
    found = kill_everywhere(of_an_adapter, save, tmp_path / "run", forked, every=16, goes_on=False)
    tell(outcome, "some calls of an adapter's", *found)


@pytest.mark.fault
@pytest.mark.parametrize("is_best", [False, True])
def test_killed_before_any_call_of_a_save_of_an_adapter(tmp_path, of_an_adapter, forked, outcome, is_best):
    save = Save(forked=forked, source=of_an_adapter.source, before=of_an_adapter.before, is_best=is_best)
    what = "adapter, copied as the best" if is_best else "adapter"
    tell(outcome, what, *kill_everywhere(of_an_adapter, save, tmp_path / "run", forked))


@pytest.mark.fault
@pytest.mark.parametrize(("parts", "what"), [(1, "all weights"), (2, "all weights in shards of two ranks")])
def test_killed_before_any_call_of_a_save_of_all_weights(tmp_path, of_all_weights, forked, outcome, parts, what):
    """Of two ranks the parts are written by one process, one after the other."""
    save = Save(forked=forked, source=of_all_weights.source, before=of_all_weights.before, parts=parts)
    tell(outcome, what, *kill_everywhere(of_all_weights, save, tmp_path / "run", forked))


def tell(outcome, what, points, lost, kinds, wrong) -> None:
    num_broken = len(lost) + len(wrong)
    outcome(
        fault="SIGKILL before every call by which a checkpoint is written",
        group="kill",
        tries=len(points),
        held=len(points) - num_broken,
        lost="the checkpoint in flight",
        note=f"{what}: {len(points)} calls, {len(kinds)} kinds of remains",
    )
    assert not lost, lost[:3]
    assert not wrong, wrong[:3]
    assert len(kinds) >= 2, kinds
