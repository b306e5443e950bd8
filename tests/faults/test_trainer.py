"""The same faults under Hugging Face's Trainer, measured: the last column of the table.

Nothing is demanded of it but that the undisturbed run ends twice alike, without which no comparison would mean
anything; what it does is told as it came out.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked_runs import Ended, ForkedRuns
from trainer_side import LOSSES, RUN, TOTAL_STEPS

from whet.cache import digest_of

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1200)]

NUM_KILLS = 12
ADAPTER = "adapter_model.safetensors"
STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
FILES = (ADAPTER, *STATE_FILES, "trainer_state.json")
OPENS = "openat,rename,renameat,renameat2"
DAMAGED = "one file of a checkpoint truncated, zeroed, one bit flipped, missing, empty, longer, or foreign"


class Side:
    """Trainer runs in a folder each, all of the same command."""

    def __init__(self, forked: ForkedRuns, folder: Path, model: Path) -> None:
        self._forked, self._folder, self._model = forked, folder, model
        self._number = 0

    def new(self, source: Path | None = None) -> Path:
        """A new folder, or a copy of one."""
        self._number += 1
        folder = self._folder / f"try-{self._number}"
        if source is not None:
            return shutil.copytree(source, folder)
        folder.mkdir()
        return folder

    def train(self, folder: Path, changes: dict[str, Any] | None = None, **options: Any) -> Ended:
        variables = {"TRAINER_SIDE": json.dumps({"model": str(self._model), **(changes or {})})}
        return self._forked.run(
            str(folder), folder=folder, program="trainer_side:main", environment=variables, **options
        )  # fmt: skip


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, forked: ForkedRuns) -> Side:
    return Side(forked, tmp_path_factory.mktemp("trainer"), tiny_model)


@pytest.fixture(scope="module")
def whole(side: Side) -> tuple[Path, float]:
    """The undisturbed run, and its seconds of processor time."""
    first, second = side.new(), side.new()
    assert (ended := side.train(first, learn=True)).code == 0, ended.said
    ended = side.train(second)
    assert ended.code == 0, ended.said
    assert result_of(first) == result_of(second)
    assert len(losses_of(first)) == TOTAL_STEPS
    return second, ended.cpu_seconds


def losses_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / LOSSES).read_text(encoding="utf-8"))


def result_of(folder: Path) -> str:
    return digest_of(folder / RUN / ADAPTER)


def without_end(folder: Path, *, newest: int = TOTAL_STEPS) -> None:
    """The run as it was right after checkpoint-`newest`."""
    (folder / LOSSES).unlink(missing_ok=True)
    for name in (ADAPTER, "adapter_config.json"):
        (folder / RUN / name).unlink(missing_ok=True)
    for step in range(newest + 1, TOTAL_STEPS + 1):
        shutil.rmtree(folder / RUN / f"checkpoint-{step}", ignore_errors=True)


def end_of(said: str) -> str:
    """The last error of a text, else its last line: short enough for a table, without this machine's folders."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    lines = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)] or lines
    text = re.sub(r"/[^\s'\"]*/", "", lines[-1]) if lines else "nothing said"
    return text if len(text) <= 90 else text[:87] + "..."


def continued(side: Side, folder: Path, whole: tuple[Path, float], changes: dict[str, Any] | None = None) -> str:
    """How the same command went on, in words."""
    ended = side.train(folder, changes)
    if ended.code != 0:
        return f"stops with exit code {ended.code}: {end_of(ended.said)}"
    return (
        "ends as if undisturbed" if result_of(folder) == result_of(whole[0]) else "ends with other weights, exit code 0"
    )


def counted(words: list[str]) -> str:
    return "; ".join(f"{words.count(text)} of {len(words)} {text}" for text in dict.fromkeys(words))


def tell(outcome: Callable[..., None], group: str, fault: str, peer: str) -> None:
    outcome(fault=fault, group=group, tries=0, held=0, peer=peer)


def test_killed_at_random_moments(side, whole, outcome):
    draw, words = random.Random(9), []
    while len(words) < NUM_KILLS:
        folder = side.new()
        if side.train(folder, die_after=draw.uniform(0.0, whole[1])).code == 0:
            continue
        words.append(continued(side, folder, whole))
    tell(outcome, "kill", "SIGKILL at a random moment of the run", counted(words))


def test_killed_while_a_checkpoint_is_written(side, whole, outcome):
    """Before each of the files of checkpoint-4 is opened under its name, or gets it."""
    words = []
    for name in FILES:
        folder = side.new()
        path = folder / RUN / "checkpoint-4" / name
        strace = (
            "-o",
            "/dev/null",
            "-P",
            str(path),
            "-e",
            f"trace={OPENS}",
            "-e",
            f"inject={OPENS}:signal=SIGKILL:when=1",
        )
        killed = side.train(folder, strace=strace)
        assert killed.code < 0, killed.said
        words.append(continued(side, folder, whole))
    tell(outcome, "kill", "SIGKILL before every call by which a checkpoint is written", counted(words))


@pytest.mark.parametrize("name", STATE_FILES)
def test_a_file_of_the_newest_checkpoint_is_missing(side, whole, outcome, name):
    folder = side.new(whole[0])
    without_end(folder, newest=TOTAL_STEPS - 2)
    (folder / RUN / f"checkpoint-{TOTAL_STEPS - 2}" / name).unlink()
    peer = f"{name} missing: {continued(side, folder, whole)}"
    tell(outcome, "damage", DAMAGED, peer)


def flip_bit(content: bytearray) -> None:
    content[len(content) // 2] ^= 1


def zero_half(content: bytearray) -> None:
    half = len(content) // 2
    content[half:] = bytes(len(content) - half)


@pytest.mark.parametrize(("what", "damage"), [("a flipped bit", flip_bit), ("a zeroed half", zero_half)])
def test_the_newest_checkpoint_is_damaged(side, whole, outcome, what, damage):
    folder = side.new(whole[0])
    without_end(folder, newest=TOTAL_STEPS - 2)
    path = folder / RUN / f"checkpoint-{TOTAL_STEPS - 2}" / ADAPTER
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    tell(outcome, "damage", DAMAGED, f"{what} in the weights: {continued(side, folder, whole)}")


def test_one_batch_is_not_a_number(side, whole, outcome):
    import torch
    from safetensors.torch import load_file

    folder = side.new()
    ended = side.train(folder, {"nan_at": 4})
    told = f"exit code {ended.code}"
    if ended.code == 0:
        tensors = load_file(folder / RUN / ADAPTER).values()
        num_broken = sum(not bool(torch.isfinite(tensor).all()) for tensor in tensors)
        losses = ", ".join(f"{loss:.2f}" for loss in losses_of(folder).values())
        told += f", {num_broken} of {len(tensors)} tensors of the final adapter not finite, losses {losses}"
    tell(outcome, "numbers", "one batch whose loss is not a number", told)


def test_asked_to_stop(side, whole, outcome):
    folder = side.new()
    ended = side.train(folder, {"stop_at": 5})
    saved = sorted(int(path.name.split("-")[1]) for path in (folder / RUN).glob("checkpoint-*"))
    told = f"exit code {ended.code}, newest checkpoint {saved[-1]} of 4 steps; {continued(side, folder, whole)}"
    tell(outcome, "kill", "SIGTERM or SIGINT at a random moment of the run", told)


def test_a_setting_changed_before_the_continuation(side, whole, outcome):
    folder = side.new(whole[0])
    without_end(folder, newest=TOTAL_STEPS - 2)
    peer = continued(side, folder, whole, {"learning_rate": 0.001})
    peer = peer.replace("ends as if undisturbed", "goes on without a word, and the change has no effect")
    tell(outcome, "changes", "an input changed before the run is continued", f"learning rate: {peer}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_disk_that_is_full(side, whole, outcome):
    words = []
    for num_bytes in (60_000, 120_000, 200_000):
        folder = side.new()
        disk = folder / RUN
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(disk)], check=True)
        try:
            full = side.train(folder)
            assert full.code != 0, f"{num_bytes} bytes are enough"
            subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
            words.append(
                f"exit code {full.code} ({end_of(full.said)}), with room again {continued(side, folder, whole)}"
            )
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    tell(outcome, "storage", "no space left while a checkpoint is written", counted(words))
