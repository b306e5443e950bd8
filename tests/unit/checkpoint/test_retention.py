"""Old checkpoints go, and never the last whole one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from whet.checkpoint.load import newest_checkpoint
from whet.checkpoint.names import list_steps
from whet.checkpoint.retention import prune, remove_leftovers, set_aside_later
from whet.errors import StorageError


def test_the_newest_by_step_stay_and_others_are_left_alone(save, tmp_path):
    for step in (1, 9, 10, 2):
        save(step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert prune(tmp_path, keep=2) == [2, 1]
    assert list_steps(tmp_path) == [10, 9]
    assert (tmp_path / "checkpoint-best").is_dir() and (tmp_path / "checkpoint-x").is_dir()


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_later_checkpoint_never_costs_the_whole_one(save, tmp_path, keep):
    """Continued from step 4 because 6 and 8 are damaged; the save of step 5 then prunes."""
    for step in (4, 6, 8):
        save(step)
    for step in (6, 8):
        (tmp_path / f"checkpoint-{step}" / "state.json").unlink()
    assert set_aside_later(tmp_path, step=4) == tmp_path / "superseded-1"
    save(5)
    prune(tmp_path, keep=keep)
    checkpoint, notes = newest_checkpoint(tmp_path)
    assert checkpoint is not None and (checkpoint.step, notes) == (5, [])
    assert sorted(p.name for p in (tmp_path / "superseded-1").iterdir()) == ["checkpoint-6", "checkpoint-8"]


def test_setting_aside_twice_keeps_both_and_without_later_ones_does_nothing(save, tmp_path):
    save(1)
    assert set_aside_later(tmp_path, step=1) is None
    for number in (1, 2):
        save(2)
        assert set_aside_later(tmp_path, step=1) == tmp_path / f"superseded-{number}"
    assert list_steps(tmp_path) == [1]


def test_what_a_crash_left_is_removed_and_links_are_not_followed(save, tmp_path):
    victim = save(1)
    (tmp_path / ".checkpoint-2.77.tmp").mkdir()
    (tmp_path / ".final.tmp").mkdir()
    (tmp_path / ".summary.json.abc.tmp").touch()
    (tmp_path / ".link.tmp").symlink_to(victim)
    assert len(remove_leftovers(tmp_path)) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]
    assert newest_checkpoint(tmp_path)[0].step == 1


def test_an_old_checkpoint_that_cannot_be_removed_is_told_and_tried_again(save, tmp_path, monkeypatch, caplog):
    for step in (1, 2, 3):
        save(step)

    def refuse(*_arguments, **_options):
        raise OSError(errno.EIO, "Input/output error")

    for failing in ("shutil.rmtree", "pathlib.Path.glob"):
        with monkeypatch.context() as patch:
            patch.setattr(failing, refuse)
            assert prune(tmp_path, keep=1) == []
    assert "checkpoint-2 could not be removed and takes up room: Input/output error" in caplog.text
    checkpoint, notes = newest_checkpoint(tmp_path)
    assert checkpoint is not None and (checkpoint.step, notes) == (3, [])
    assert prune(tmp_path, keep=1) == [2, 1]


@pytest.mark.parametrize("act", [remove_leftovers, lambda folder: set_aside_later(folder, step=1)])
def test_what_cannot_be_moved_or_removed_is_a_storage_error(save, tmp_path, monkeypatch, act):
    save(1)
    save(2)
    (tmp_path / ".checkpoint-3.1.tmp").mkdir()

    def refuse(*_arguments, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("shutil.rmtree", refuse)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="Read-only file system"):
        act(tmp_path)
