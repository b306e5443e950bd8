"""One process per run folder, whatever became of the one before."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from whet.checkpoint.lock import is_held, locked
from whet.errors import StorageError


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path):
    with locked(tmp_path):
        with pytest.raises(StorageError, match=rf"process {os.getpid()} on \S+"), locked(tmp_path):
            pass
        # a refused attempt wipes out neither the lock nor the name
        with pytest.raises(StorageError, match=rf"process {os.getpid()} on"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = "import os, sys, pathlib; from whet.checkpoint.lock import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert process.returncode == -9
    with locked(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()


def test_a_link_in_the_place_of_the_lock_is_refused_and_its_victim_untouched(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".lock").symlink_to(victim)
    with pytest.raises(StorageError, match="cannot be opened"), locked(tmp_path):
        pass
    assert victim.read_text() == "mine"


def test_a_file_system_without_locks_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(_handle, _operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="No locks available"), locked(tmp_path):
        pass


def test_an_error_within_is_not_taken_for_one_of_the_lock(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path):
        raise FileNotFoundError("of the run")


def test_a_look_says_whether_the_folder_is_held_and_changes_nothing(tmp_path):
    assert not is_held(tmp_path) and not (tmp_path / ".lock").exists()
    with locked(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(StorageError), locked(tmp_path):
            pass
    assert not is_held(tmp_path)
