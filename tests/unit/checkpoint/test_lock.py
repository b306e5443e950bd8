"""One process per run folder, whatever became of the one before."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

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
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert (tmp_path / ".lock").read_bytes() == b""


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


def leave_claim(folder, **changes):
    """A claim that was not given back, of a process that is gone: by default of this machine, since its last start."""
    with locked(folder):
        claim = json.loads((folder / ".lock").read_text())
    gone = {"process": 2**22 + 1, "started": "1"}  # beyond the largest number that a kernel gives
    (folder / ".lock").write_text(json.dumps(claim | gone | changes))


def test_what_a_process_that_is_gone_left_is_taken_over_and_said(tmp_path):
    said = []
    leave_claim(tmp_path)
    with locked(tmp_path, said.append):
        pass
    leave_claim(tmp_path, process=os.getppid())  # the number is in use again, by a process that began later
    with locked(tmp_path, said.append):
        pass
    leave_claim(tmp_path, boot="of the week before")
    with locked(tmp_path, said.append):
        pass
    assert len(said) == 3 and all("ended without giving the folder back" in sentence for sentence in said)


def test_a_process_that_died_and_was_not_asked_after_yet_is_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{process.pid}/stat")
    started = stat.read_text().rpartition(")")[2].split()[19]
    leave_claim(tmp_path, process=process.pid, started=started)
    with pytest.raises(StorageError, match=f"process {process.pid} on"), locked(tmp_path):
        pass  # alive without the lock, as on a file system that only pretends to lock
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with locked(tmp_path):
        pass
    process.communicate()


def test_what_another_machine_left_is_refused_with_how_to_remove_it(tmp_path):
    leave_claim(tmp_path, boot="another", host="node7")
    before = (tmp_path / ".lock").read_bytes()
    told = r"(?s)on node7, since .*look on node7; if it is gone, remove .*\.lock"
    with pytest.raises(StorageError, match=told), locked(tmp_path):
        pass
    assert (tmp_path / ".lock").read_bytes() == before, "a refused attempt changes nothing"
    (tmp_path / ".lock").unlink()
    with locked(tmp_path):
        pass


def test_a_job_that_its_scheduler_starts_again_elsewhere_takes_its_folder_over(tmp_path, monkeypatch):
    leave_claim(tmp_path, boot="another", host="node7", job="slurm 4711")
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    with pytest.raises(StorageError, match="another run is working"), locked(tmp_path):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("left", [b"process 71 on node7\n", b'{"process": 71, "sta', b"[]", b"\xff\0", b"null"])
def test_a_claim_that_cannot_be_read_leaves_the_decision_to_the_lock(tmp_path, left):
    (tmp_path / ".lock").write_bytes(left)
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
