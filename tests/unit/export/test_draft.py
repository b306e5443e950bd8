import errno
import os

import pytest
from safetensors import SafetensorError

from whet.errors import GateError, HubError, StorageError
from whet.export.draft import draft_folder


def test_a_draft_takes_its_name_when_all_went_well(tmp_path):
    target = tmp_path / "new" / "out"
    with draft_folder(target) as draft:
        (draft / "file").write_text("whole", encoding="utf-8")
        assert not target.exists()
    assert (target / "file").read_text(encoding="utf-8") == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [GateError("over the limit"), KeyboardInterrupt(), HubError("gone"), ValueError("x")])
def test_a_failure_leaves_nothing_and_passes_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, draft_folder(tmp_path / "out") as draft:
        (draft / "file").write_text("half", encoding="utf-8")
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: os error 28")]
)
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path, error):
    with pytest.raises(StorageError, match=r"(?s)out: could not be written.*--output"), draft_folder(tmp_path / "out"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path)
    for name, message in (("file", "exists already"), ("link", "symbolic link")):
        with pytest.raises(StorageError, match=message), draft_folder(tmp_path / name):
            raise AssertionError("not reached")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with draft_folder(tmp_path / "out") as draft:
        (draft / "file").touch()
    assert (tmp_path / "out" / "file").exists()


def test_what_a_killed_export_left_is_removed_and_what_a_working_one_writes_is_not(tmp_path):
    host = os.uname().nodename
    left = tmp_path / f".out.{host}.{2**22 + 1}.tmp"  # beyond the largest number that a kernel gives
    others = [tmp_path / name for name in (f".out.{host}.{os.getppid()}.tmp", ".out.node7.71.tmp", ".other.1.tmp")]
    for folder in (left, *others):
        folder.mkdir()
        (folder / "file").write_text("half", encoding="utf-8")
    with draft_folder(tmp_path / "out"):
        assert not left.exists()
    assert all(folder.is_dir() for folder in others)
