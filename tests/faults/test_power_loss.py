"""The power fails while a run saves: what the disk holds at that moment is enough to go on.

The run works on an ext4 image on a loop device, which commits nothing of its own accord. At each moment the run is
stopped and the image copied: a copy has what was synced to the disk, and not what only memory had. From each copy,
mounted in the place of the image, the same command is given again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workplace import make_workplace

from whet.checkpoint.load import newest_checkpoint

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1200)]

TOTAL_STEPS, NUM_MOMENTS = 8, 10
IMAGE_BYTES = 24_000_000
OPTIONS = "loop,commit=3600,noatime"


def can_mount(folder: Path) -> bool:
    image = folder / "probe.img"
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        return False
    make_image(image)
    (folder / "probe").mkdir()
    done = subprocess.run(["mount", "-o", OPTIONS, str(image), str(folder / "probe")], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", str(folder / "probe")], check=True)
    return done.returncode == 0


def make_image(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", OPTIONS, str(image), str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_what_the_disk_holds_when_the_power_fails_is_enough(tmp_path, tiny_model, uninterrupted, forked, outcome):
    if not can_mount(tmp_path):
        pytest.skip("loop devices may not be mounted here")
    place = make_workplace(tmp_path / "place", tiny_model)
    disk, image = place.folder / "disk", tmp_path / "disk.img"
    disk.mkdir()
    make_image(image)
    place.write_recipe(output=str(disk / "run"))
    with mounted(image, disk):
        copies = copies_in_the_course_of(place, image, tmp_path)
    broken, had_steps = [], []
    for copy, step in copies:
        with mounted(copy, disk):
            checkpoint, notes = newest_checkpoint(disk / "run")
            had_steps.append(checkpoint.step if checkpoint else 0)
            ended = forked.run("train", str(place.recipe), folder=place.folder, environment=place.environment)
            is_right = (
                ended.code == 0
                and not notes
                and place.trajectory("disk/run") == uninterrupted.trajectory
                and place.hashes("disk/run") == uninterrupted.hashes
            )
            if not is_right:
                broken.append((step, notes, ended.code, ended.said))
        copy.unlink()
    outcome(
        fault="the power fails (what was not synced is gone)", group="storage", tries=len(copies),
        held=len(copies) - len(broken), lost="the steps since the last whole checkpoint",
        note=f"ext4 on a loop device; the disk then held checkpoints {', '.join(map(str, had_steps))}",
    )  # fmt: skip
    assert not broken, broken[0]
    assert len(set(had_steps)) >= 3, had_steps


def copies_in_the_course_of(place, image: Path, folder: Path) -> list[tuple[Path, int]]:
    """(copy of the image, steps told of by then), at moments of a run from its first step to its end."""
    process = place.start("train", str(place.recipe))
    copies: list[tuple[Path, int]] = []
    for number in range(NUM_MOMENTS):
        target = number * TOTAL_STEPS // (NUM_MOMENTS - 1)
        deadline = time.monotonic() + 240
        while process.poll() is None and place.last_step("disk/run") < target:
            assert time.monotonic() < deadline, "the run did not get that far"
            time.sleep(0.001 * number)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGSTOP)
        copy = folder / f"copy-{number}.img"
        subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
        copies.append((copy, place.last_step("disk/run")))
        process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return copies
