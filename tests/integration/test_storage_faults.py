"""A run folder that cannot be used is refused before torch is imported; a disk that fills up costs no checkpoint."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

# the interpreter, pydantic and typer on a loaded machine; importing torch alone takes longer than what is left of it
SECONDS_WITHOUT_TORCH = 2.0

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


def refused_at_once(workplace, *arguments: str, **popen) -> str:
    """What `whet train` said when it left with 5 in time, having imported neither torch nor transformers."""
    workplace.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    started = time.monotonic()
    said = workplace.train(*arguments, expect=5, **popen)
    seconds = time.monotonic() - started
    imported = {line.rsplit("|", 1)[-1].strip() for line in said.splitlines() if line.startswith("import time:")}
    assert "typer" in imported
    assert not imported & {"torch", "transformers", "peft"}
    assert seconds < SECONDS_WITHOUT_TORCH
    return "\n".join(line for line in said.splitlines() if not line.startswith("import time:"))


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of that many bytes at `tmp_path/disk`."""
    folder = tmp_path / "disk"

    def mount(num_bytes: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs root to mount a small disk ({done.stderr.strip()})")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_file_in_the_way_of_the_run_folder(workplace):
    (workplace.folder / "run").write_text("mine")
    assert "cannot be written (File exists)" in refused_at_once(workplace)
    assert (workplace.folder / "run").read_text() == "mine"


def test_a_run_folder_below_a_file(workplace):
    (workplace.folder / "file").write_text("mine")
    assert "cannot be written (Not a directory)" in refused_at_once(workplace, f"output={workplace.folder}/file/run")


def test_a_run_folder_that_is_a_link(workplace):
    victim = workplace.folder / "victim"
    victim.mkdir()
    (workplace.folder / "run").symlink_to(victim)
    assert "is a symbolic link" in refused_at_once(workplace)
    assert list(victim.iterdir()) == []


@needs_root
def test_a_run_folder_on_a_read_only_disk(workplace, small_disk):
    """Rights do not stop root; tests/unit/train/test_folder.py tries them as another user."""
    disk = small_disk(1_000_000)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "cannot be written (Read-only file system)" in refused_at_once(workplace, f"output={disk / 'run'}")


@needs_root
def test_too_little_disk_is_told_with_numbers_before_the_work(workplace, small_disk):
    disk = small_disk(1_000_000)
    workplace.write_recipe(adapter={"method": "none"}, output=str(disk / "run"))
    said = refused_at_once(workplace)
    assert "too little disk: the run needs" in said and "MB are free" in said


@needs_root
@pytest.mark.slow
def test_a_disk_that_fills_up_costs_no_checkpoint_and_the_run_continues(workplace, uninterrupted, small_disk):
    disk = small_disk(4_000_000)
    workplace.write_recipe(output=str(disk / "run"))
    filler = disk / "filler"
    process = workplace.train_until(lambda: workplace.last_step("disk/run") >= 2)
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 5, said
    assert "no space left while saving" in said and "older checkpoints are untouched" in said
    assert not list((disk / "run").glob(".checkpoint-*"))
    filler.unlink()
    workplace.train()
    assert workplace.trajectory("disk/run") == uninterrupted.trajectory
    assert workplace.hashes("disk/run") == uninterrupted.hashes


@pytest.mark.slow
def test_a_limit_on_file_sizes_is_reported_as_a_storage_fault(workplace):
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (40_000, 40_000))
    said = workplace.train(expect=5, preexec_fn=limit)
    assert "could not be saved" in said and "File too large" in said
    assert not list((workplace.folder / "run").glob("*checkpoint*"))
