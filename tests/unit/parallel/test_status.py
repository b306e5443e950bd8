import json
import os
import time

import pytest

from whet.errors import InterruptedRunError, PeerLostError, StorageError
from whet.parallel.rank_files import RankFiles, begin, rank_files, voice
from whet.parallel.status import is_relaunch, mark_lost, read_statuses, status_path


def test_a_rank_is_running_until_it_says_how_it_ended(tmp_path):
    with rank_files(tmp_path, rank=0, world_size=1) as files:
        assert read_statuses(tmp_path) == [], "an earlier run may still be moved out of the folder"
        files.begin()
        files.status.reached(3)
        (status,) = read_statuses(tmp_path)
        assert (status.state, status.exit_code, status.process) == ("running", None, os.getpid())
    (status,) = read_statuses(tmp_path)
    assert (status.state, status.exit_code, status.error, status.step) == ("finished", 0, "", 3)
    assert not (tmp_path / "ranks" / "rank-0.log").exists(), "the console of one process shows everything"


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (InterruptedRunError("stopped"), "interrupted", 75),
        (PeerLostError("rank 1 is gone"), "failed", 7),
        (StorageError("is full"), "failed", 5),
        (ValueError("a bug"), "failed", 1),
        (SystemExit(3), "failed", 3),
    ],
)
def test_how_a_rank_ended_is_written_down_with_its_exit_code(tmp_path, error, state, code):
    with pytest.raises(type(error)), rank_files(tmp_path, rank=1, world_size=2) as files:
        files.begin()
        raise error
    (status,) = read_statuses(tmp_path)
    assert (status.rank, status.state, status.exit_code, status.error) == (1, state, code, str(error))
    assert str(error) in (tmp_path / "ranks" / "rank-1.log").read_text()


def test_a_launch_into_a_working_run_leaves_that_runs_status_as_it_was(tmp_path):
    working = RankFiles(tmp_path, rank=0, world_size=1)
    working.begin()
    before = status_path(tmp_path, 0).read_bytes()
    with pytest.raises(StorageError), rank_files(tmp_path, rank=0, world_size=1) as files:
        files.begin()
        raise StorageError("another run is working in this folder (process 1)")
    assert status_path(tmp_path, 0).read_bytes() == before


def test_files_of_a_larger_launch_before_and_unreadable_ones_are_left_out(tmp_path):
    for world in (4, 2):
        for rank in range(world):
            RankFiles(tmp_path, rank=rank, world_size=world).status.begin()
    status_path(tmp_path, 1).write_text("{", encoding="utf-8")
    status_path(tmp_path, 0).write_text(
        json.dumps(json.loads(status_path(tmp_path, 0).read_text()) | {"of a later version": 1}), encoding="utf-8"
    )
    assert [status.rank for status in read_statuses(tmp_path)] == [0]


def test_the_watch_writes_for_a_rank_that_cannot_but_for_no_other(tmp_path):
    RankFiles(tmp_path, rank=0, world_size=2).status.begin()
    mark_lost(tmp_path, 0, PeerLostError("rank 1 is gone"))
    (status,) = read_statuses(tmp_path)
    assert (status.state, status.exit_code, status.error) == ("failed", 7, "rank 1 is gone")
    document = json.loads(status_path(tmp_path, 0).read_text()) | {"process": 1, "state": "running"}
    status_path(tmp_path, 0).write_text(json.dumps(document), encoding="utf-8")
    mark_lost(tmp_path, 0, PeerLostError("not mine"))
    assert read_statuses(tmp_path)[0].state == "running"


def test_torchrun_that_starts_ranks_again_is_recognised(tmp_path, monkeypatch):
    assert not is_relaunch(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert not is_relaunch(tmp_path)
    RankFiles(tmp_path, rank=0, world_size=2).status.begin()
    assert is_relaunch(tmp_path)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not is_relaunch(tmp_path), "another torchrun"
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert not is_relaunch(tmp_path), "a person at a shell"


def test_sentences_warnings_and_the_end_go_into_the_log_of_each_rank(tmp_path, capsys):
    said = []
    with rank_files(tmp_path, rank=1, world_size=2) as files:
        begin(files)
        voice(None, files)("read 7 rows")
        voice(said.append, files)("for people too")
        import sys

        sys.stderr.write("a warning\n")
    log = (tmp_path / "ranks" / "rank-1.log").read_text()
    assert "rank 1 of 2, host" in log.splitlines()[0] and f"process {os.getpid()}" in log
    assert "read 7 rows" in log and "a warning" in log and log.rstrip().endswith("finished")
    assert said == ["for people too"] and capsys.readouterr().err == "a warning\n"
    begin(None)
    voice(said.append, None)("no files")
    assert said[-1] == "no files"


def test_a_clock_that_is_set_back_does_not_stop_the_status_from_following(tmp_path, monkeypatch):
    files = RankFiles(tmp_path, rank=0, world_size=1)
    files.begin()
    real_time, real_monotonic = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: real_time() - 86_400)
    files.status.reached(1)
    assert read_statuses(tmp_path)[0].step == 0, "it follows every half minute"
    monkeypatch.setattr(time, "monotonic", lambda: real_monotonic() + 60)
    files.status.reached(2)
    assert read_statuses(tmp_path)[0].step == 2


def test_a_larger_launch_with_a_later_stamp_is_an_earlier_one_all_the_same(tmp_path, monkeypatch):
    for rank in range(4):
        RankFiles(tmp_path, rank=rank, world_size=4).status.begin()
    monkeypatch.setattr(time, "time", lambda: 0.5)  # the clock was set back between the two launches
    for rank in range(2):
        RankFiles(tmp_path, rank=rank, world_size=2).status.begin()
    assert [status.rank for status in read_statuses(tmp_path)] == [0, 1]
