"""Both ends of the watch over real connections of the loopback, turn by turn: the test is the clock."""

import socket
import time
from contextlib import suppress

import pytest

from whet.parallel.posts import COMPLAINT_SECONDS, Keeper, Member
from whet.parallel.roll import Note
from whet.parallel.wire import Wire, connect, is_loopback, listen, own_addresses

pytestmark = pytest.mark.slow

SECRET = "8f2c"
TIMEOUT = 5.0


def note(rank: int, **others) -> Note:
    return Note(host="here", process=100 + rank, doing="data loading of step 3", **others)


class Ranks:
    """A keeper and its members."""

    def __init__(self, num_ranks: int) -> None:
        listener = listen(is_local=True)
        self.port = listener.getsockname()[1]
        self.keeper = Keeper(listener, SECRET, timeout_seconds=TIMEOUT)
        self.members = {rank: self.member(rank) for rank in range(1, num_ranks)}
        self.notes = {rank: note(rank) for rank in range(num_ranks)}
        self.verdicts: dict[int, str | None] = {}
        self.turns()

    def member(self, rank: int, secret: str = SECRET) -> Member:
        connection = connect(["127.0.0.1"], self.port, seconds=1)
        return Member(connection, secret, note(rank), rank=rank, timeout_seconds=TIMEOUT)

    def turns(
        self, number: int = 3, *, seconds: float = 0.0, asleep: tuple[int, ...] = (), complaint: str = ""
    ) -> None:
        """Everyone's turn, a few times, `seconds` apart; rank 0 has the complaint."""
        for _ in range(number):
            for rank, post in {0: self.keeper, **self.members}.items():
                if rank not in asleep:
                    said = complaint if rank == 0 else ""
                    self.verdicts[rank] = post.turn(self.notes[rank], seconds=seconds, is_beat=True, complaint=said)
            time.sleep(0.02)

    def close(self) -> None:
        for member in self.members.values():
            member._wire.close()
        self.keeper.leave("over", is_fault=False)


@pytest.fixture
def ranks():
    made = Ranks(3)
    yield made
    made.close()


def test_ranks_that_speak_are_left_alone_however_long_it_takes(ranks):
    ranks.turns(20, seconds=1.0)
    assert set(ranks.verdicts.values()) == {None}
    assert ranks.keeper.host_of(2) == "here" and ranks.keeper.host_of(7) == ""


def test_a_closed_connection_is_noticed_in_the_next_turn_and_told_to_everyone(ranks):
    ranks.members.pop(1)._wire.close()
    ranks.turns()
    assert ranks.verdicts[0].startswith(
        "rank 1 (host here, process 101) is gone: it ended without a word in data loading"
    )
    assert ranks.verdicts[2] == ranks.verdicts[0]


def test_a_rank_that_does_not_beat_is_lost_after_the_timeout_and_not_before(ranks):
    ranks.turns(4, seconds=1.0, asleep=(2,))
    assert ranks.verdicts[0] is None
    ranks.turns(3, seconds=1.0, asleep=(2,))
    assert ranks.verdicts[0].startswith(
        "rank 2 (host here, process 102) does not answer: its last sign of life was 5 s ago"
    )
    assert ranks.verdicts[1] == ranks.verdicts[0]


def test_a_rank_0_that_does_not_beat_is_lost_by_all_others(ranks):
    ranks.turns(7, seconds=1.0, asleep=(0,))
    for rank in (1, 2):
        assert ranks.verdicts[rank].startswith("rank 0 (host here, process 100) does not answer")


def test_a_rank_0_that_ends_is_noticed_by_all_others(ranks):
    for wire in (*ranks.keeper._wires.values(), ranks.keeper._listener):
        wire.close()
    ranks.turns(asleep=(0,))
    assert ranks.verdicts[1].startswith("rank 0 (host here, process 100) is gone")


def test_a_rank_that_says_farewell_is_not_missed(ranks):
    ranks.members[1]._wire.send({"farewell": "finished", "is_fault": False})
    ranks.members.pop(1)._wire.close()
    ranks.turns(8, seconds=1.0)
    assert ranks.verdicts[0] is None and ranks.verdicts[2] is None


def test_the_error_that_a_rank_ends_with_reaches_all_others(ranks):
    ranks.members[1]._wire.send({"farewell": "row 17 cannot be read", "is_fault": True})
    ranks.members.pop(1)._wire.close()
    ranks.turns()
    assert ranks.verdicts[0] == ranks.verdicts[2]
    assert ranks.verdicts[2] == "rank 1 (host here, process 101) ended with an error: row 17 cannot be read"


def test_a_complaint_is_judged_when_everyone_could_speak(ranks):
    ranks.notes[0] = note(0, collective="barrier of step 3", num_entered=2, is_inside=True)
    ranks.notes[2] = note(2, collective="barrier of step 3", num_entered=2, is_inside=True)
    ranks.turns(2, seconds=1.0, complaint="the barrier of step 3")
    assert ranks.verdicts[0] is None
    ranks.turns(int(COMPLAINT_SECONDS), seconds=1.0, complaint="the barrier of step 3")
    assert ranks.verdicts[0].startswith("rank 1 (host here, process 101) has not entered the barrier of step 3")
    assert ranks.verdicts[2] == ranks.verdicts[0]


def test_a_stranger_without_the_secret_is_not_heard(ranks):
    stranger = ranks.member(9, secret="guess")
    ranks.turns(8, seconds=1.0)
    assert ranks.keeper.host_of(9) == "" and ranks.verdicts[0] is None
    stranger._wire.close()


def test_what_is_no_document_is_passed_over_and_a_flood_closes_the_connection():
    one, other = socket.socketpair()
    wire = Wire(one)
    other.sendall(b'no json\n[1]\n{"a": 1}\n{"b"')
    assert wire.receive() == [{"a": 1}]
    other.sendall(b": 2}\n")
    assert wire.receive() == [{"b": 2}] and not wire.is_closed
    other.setblocking(False)
    while not wire.is_closed:
        with suppress(BlockingIOError):
            other.send(b"x" * 4096)
        assert wire.receive() == []
    wire.close()
    other.close()


def test_the_loopback_is_offered_only_where_the_ranks_are_all_here():
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and not is_loopback("node-0")
    assert own_addresses("no.such.host.invalid") == ["no.such.host.invalid"]
    assert own_addresses("127.0.0.1")[-1] == "127.0.0.1"
