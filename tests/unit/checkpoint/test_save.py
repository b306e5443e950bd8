"""A crash or a full disk at any instant of a save leaves the older checkpoint whole and nothing that looks whole."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from whet.checkpoint import save as save_module
from whet.checkpoint.load import newest_checkpoint
from whet.checkpoint.retention import remove_leftovers
from whet.checkpoint.save import copy_checkpoint, remove_checkpoint
from whet.errors import StorageError


class PowerCutError(BaseException):
    """No handler of the product may catch this, as none runs when the power goes."""


STEPS_OF_A_SAVE = ("save_file", "sync_file", "write_manifest")


@pytest.mark.parametrize("name", STEPS_OF_A_SAVE)
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_crash_within_a_save_leaves_the_older_checkpoint(save, tmp_path, monkeypatch, name, is_done):
    save(1)
    real = getattr(save_module, name)

    def crash(*arguments, **options):
        if is_done:
            real(*arguments, **options)
        raise PowerCutError

    monkeypatch.setattr(save_module, name, crash)
    with pytest.raises(PowerCutError):
        save(2)
    monkeypatch.undo()
    checkpoint, notes = newest_checkpoint(tmp_path)
    assert checkpoint is not None and (checkpoint.step, notes) == (1, [])
    assert len(remove_leftovers(tmp_path)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1"]


def test_a_crash_before_the_rename_leaves_the_older_checkpoint(save, tmp_path, monkeypatch):
    save(1)

    def crash(_self, _target):
        raise PowerCutError

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(PowerCutError):
        save(2)
    monkeypatch.undo()
    checkpoint, notes = newest_checkpoint(tmp_path)
    assert checkpoint is not None and (checkpoint.step, notes) == (1, [])
    save(2)
    assert newest_checkpoint(tmp_path)[0].step == 2


def test_everything_is_on_the_disk_before_the_rename_and_the_manifest_is_last(save, tmp_path, monkeypatch):
    events = []
    real_sync, real_manifest, real_rename = save_module.sync_file, save_module.write_manifest, Path.rename
    monkeypatch.setattr(save_module, "sync_file", lambda p: (events.append(p.name), real_sync(p)))
    monkeypatch.setattr(
        save_module, "write_manifest", lambda f, step: (events.append("manifest"), real_manifest(f, step=step))
    )
    monkeypatch.setattr(Path, "rename", lambda p, to: (events.append("rename"), real_rename(p, to))[1])
    save(1)
    assert set(events[:4]) == {"model.safetensors", "state.json", "recipe.yaml", "tokenizer.json"}
    assert events[4:] == ["manifest", "rename", tmp_path.name]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        StorageError("could not be written: No space left on device"),
    ],
)
def test_a_full_disk_is_told_as_such_and_leaves_nothing_behind(save, tmp_path, monkeypatch, error):
    save(1)

    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(save_module, "write_manifest", fail)
    with pytest.raises(StorageError, match="no space left while saving") as caught:
        save(2)
    assert "older checkpoints are untouched" in caught.value.mend
    assert "0.0 MB are needed" in caught.value.what and "MB are free" in caught.value.what
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_link_in_the_place_of_a_checkpoint_is_not_followed(save, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "manifest.json").write_text("mine")
    (tmp_path / "checkpoint-2").symlink_to(victim)
    with pytest.raises(StorageError, match="symbolic link") as caught:
        save(2)
    assert caught.value.mend == "remove the link"
    assert (victim / "manifest.json").read_text() == "mine"


def test_removal_begins_with_the_manifest(save, monkeypatch):
    folder = save(1)

    def crash(_path, **_options):
        raise PowerCutError

    monkeypatch.setattr("shutil.rmtree", crash)
    with pytest.raises(PowerCutError):
        remove_checkpoint(folder)
    assert not (folder / "manifest.json").exists()


def test_the_best_is_a_real_copy_that_replaces_the_older_one(save, tmp_path):
    best = tmp_path / "checkpoint-best"
    copy_checkpoint(save(1), best)
    copy_checkpoint(save(2), best)
    assert not best.is_symlink()
    assert torch.equal(*[torch.tensor(list((f / "model.safetensors").read_bytes())) for f in (best, save(2))])


def test_files_have_the_rights_that_the_umask_allows(tmp_path, save):
    before = os.umask(0o027)
    try:
        folder = save(1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


def test_what_was_told_of_the_steps_is_on_the_disk_before_the_checkpoint_gets_its_name(save, tmp_path, monkeypatch):
    """Else a power loss leaves a checkpoint of step 8 and the lines of fewer steps."""
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    order = []
    real_sync, real_rename = save_module.sync_file, Path.rename

    def sync(path):
        order.append(path.name)
        real_sync(path)

    def rename(self, target):
        order.append(f"to {Path(target).name}")
        return real_rename(self, target)

    monkeypatch.setattr(save_module, "sync_file", sync)
    monkeypatch.setattr(Path, "rename", rename)
    save(1)
    assert order.index("metrics.jsonl") < order.index("to checkpoint-1")
