"""What a checkpoint takes on a disk is tried there, and nothing of the try stays."""

from __future__ import annotations

import pytest
import torch

from whet.errors import StorageError
from whet.train import save_pace

CPU = torch.device("cpu")


def test_a_try_is_made_on_the_disk_of_the_run_and_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def write_files(folder, **options):
        written.append(folder)
        return real(folder, **options)

    real = save_pace.write_files
    monkeypatch.setattr(save_pace, "write_files", write_files)
    before = torch.get_rng_state()
    pace = save_pace.measure_save_pace(tmp_path / "runs" / "not-yet", 3_000_000, CPU)
    assert 0 < pace.copy_seconds < 1e-5 and 0 < pace.write_seconds < 1e-5, "a second for 100 kB is no disk"
    assert {folder.parent for folder in written} == {tmp_path} and len(written) == 3, "little is tried three times"
    assert not list(tmp_path.iterdir())
    assert torch.equal(before, torch.get_rng_state())


def test_no_more_is_written_than_a_checkpoint_has(tmp_path, monkeypatch):
    sizes = []
    real = save_pace.write_manifest
    monkeypatch.setattr(save_pace, "write_manifest", lambda f, step: sizes.append(real(f, step=step).bytes))
    monkeypatch.setattr(save_pace, "SAMPLE_BYTES", 400_000)
    for num_bytes in (40_000, 4_000_000):
        save_pace.measure_save_pace(tmp_path, num_bytes, CPU)
    (small, *_), (large, *_) = sizes[:3], sizes[3:]
    assert 40_000 <= small["model.safetensors"] < 41_000 and 400_000 <= large["model.safetensors"] < 401_000


def test_a_disk_that_takes_nothing_is_named(tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save_pace, "write_files", full)
    with pytest.raises(StorageError, match="no space left"):
        save_pace.measure_save_pace(tmp_path, 4_000, CPU)
    assert not list(tmp_path.iterdir())
