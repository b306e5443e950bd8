"""The thread beside training, with an end that says what the test wants."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from whet.errors import DataError, InterruptedRunError, PeerLostError
from whet.parallel import watch
from whet.parallel.collective import awaited, collective, raise_if_lost
from whet.parallel.presence import Presence


class Post:
    """Remembers what it was told; the test sets the verdict."""

    def __init__(self) -> None:
        self.verdict: str | None = None
        self.on_complaint: str | None = None
        self.notes, self.farewells = [Presence().note()], []

    def turn(self, own, *, seconds, is_beat, complaint):
        self.notes.append(own)
        assert 0 <= seconds <= 1
        return self.verdict or (complaint and self.on_complaint) or None

    def leave(self, why, *, is_fault):
        self.farewells.append((why, is_fault))

    def host_of(self, rank):
        return f"node-{rank}"


@pytest.fixture
def post(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    made = Post()
    watch.begin(made, rank=0, num_ranks=2, folder=tmp_path)
    yield made
    watch.end(None)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_others_are_told_where_this_rank_is(post):
    presence = watch.current().presence
    presence.step, presence.phase = 12, lambda: "data loading"
    with collective("gradient all-reduce"):
        wait_for(lambda: post.notes[-1].is_inside)
    wait_for(lambda: not post.notes[-1].is_inside)
    last = post.notes[-1]
    assert (last.doing, last.collective, last.num_entered) == (
        "data loading of step 12", "gradient all-reduce of step 12", 1,
    )  # fmt: skip
    with awaited():
        wait_for(lambda: post.notes[-1].is_inside and post.notes[-1].num_entered == 1)
    presence.step = 0
    with collective("barrier", is_patient=True):
        wait_for(lambda: post.notes[-1].is_patient and post.notes[-1].collective == "barrier")
    assert watch.host_of(3) == "node-3"


def test_a_collective_that_breaks_is_explained_by_the_verdict(post, tmp_path):
    post.on_complaint = "rank 1 is gone"
    with pytest.raises(PeerLostError, match="rank 0: rank 1 is gone") as error, collective("barrier"):
        raise RuntimeError("Connection closed by peer")
    assert "the same command again" in error.value.mend and error.value.exit_code == 7
    assert "where every thread of this rank is" in (tmp_path / "ranks" / "rank-0.log").read_text()
    with pytest.raises(PeerLostError, match="rank 1 is gone"), collective("barrier"):
        raise AssertionError("no collective begins after the verdict")


def test_an_error_of_a_library_is_a_lost_rank_only_where_one_is_lost(post):
    error = RuntimeError("shapes do not fit")
    raise_if_lost(error)
    post.on_complaint = "rank 1 is gone"
    raise_if_lost(error)
    with pytest.raises(PeerLostError, match="rank 1 is gone"):
        raise_if_lost(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))


def test_where_nobody_is_to_blame_torchs_own_words_are_passed_on(post):
    post.on_complaint = "all ranks are there, but the barrier failed"
    with (
        pytest.raises(PeerLostError, match="but the barrier failed; torch says: NCCL error: invalid usage\n"),
        collective("barrier"),
    ):
        raise RuntimeError("NCCL error: invalid usage\nwith more lines")


def test_without_a_watch_nothing_changes(monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    assert watch.current() is None and watch.host_of(0) == ""
    raise_if_lost(RuntimeError("gloo"))
    with awaited(), collective("barrier"):
        pass
    with (
        pytest.raises(PeerLostError, match="rank 1 waited for the others in the barrier: reset"),
        collective("barrier"),
    ):
        raise RuntimeError("reset")


@pytest.mark.parametrize(
    ("error", "farewell"),
    [
        (None, ("finished", False)),
        (InterruptedRunError("stopped after step 3"), ("it was stopped as asked", False)),
        (KeyboardInterrupt(), ("it was stopped as asked", False)),
        (PeerLostError("rank 1 is gone"), ("it lost another rank", False)),
        (DataError("row 17 cannot be read\nmore"), ("row 17 cannot be read", True)),
        (ValueError("a bug"), ("ValueError: a bug", True)),
    ],
)
def test_the_others_hear_why_this_rank_leaves_and_whether_they_can_go_on(error, farewell):
    post = Post()
    watch.begin(post, rank=1, num_ranks=2, folder=None)
    watch.end(error)
    assert post.farewells == [farewell] and watch.current() is None


def test_a_rank_says_when_it_entered_its_last_collective():
    presence = Presence()
    presence.enter("barrier")
    time.sleep(0.05)
    assert presence.note().seconds_since >= 0.05 and presence.note().doing == "start-up"


HANGING = """
import sys, time
from pathlib import Path
from whet.parallel import watch
from whet.parallel.rank_files import RankFiles
class Post:
    def turn(self, own, **others):
        return "rank 1 is gone"
folder = Path(sys.argv[1])
RankFiles(folder, rank=0, world_size=2).status.begin()
watch.begin(Post(), rank=0, num_ranks=2, folder=folder)
time.sleep(100)
"""


@pytest.mark.slow
def test_a_process_that_does_not_end_by_itself_after_the_verdict_is_ended(tmp_path):
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANGING, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7 and "error: rank 0: rank 1 is gone\n  mend: give the same command" in done.stderr
    assert time.monotonic() - started < 30
    status = json.loads((tmp_path / "ranks" / "rank-0.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 7)
