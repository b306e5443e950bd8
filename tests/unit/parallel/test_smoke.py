"""One process, and as if another rank were there; two real ones are in tests/integration/test_ranks.py."""

import pytest
import torch

from whet.errors import PeerLostError
from whet.parallel import smoke


@pytest.fixture
def two_ranks(monkeypatch):
    """As if a second rank summed along."""

    def all_reduce(buffer, op=None):
        buffer.fill_(3.0) if op is None else None

    for name, answer in {"is_initialized": True, "get_world_size": 2, "get_rank": 0}.items():
        monkeypatch.setattr(smoke.dist, name, lambda answer=answer: answer)
    monkeypatch.setattr(smoke.dist, "all_reduce", all_reduce)


def test_alone_there_is_nothing_to_time():
    assert smoke.smoke_test(torch.device("cpu")) is None


def test_the_sentence_says_what_a_ring_sends():
    of_four = smoke.Smoke(num_ranks=4, small_seconds=0.00016, large_seconds=0.012, large_bytes=8_000_000)
    assert of_four.bytes_per_second == pytest.approx(1e9)
    assert (
        of_four.sentence == "all-reduce over 4 ranks: 0.2 ms for 4 bytes, 12 ms for 8 MB (1.00 GB/s sent by each rank)"
    )


def test_what_was_timed_is_said(two_ranks):
    said = []
    timed = smoke.smoke_test(torch.device("cpu"), said.append)
    assert timed.num_ranks == 2 and timed.large_bytes == 8_000_000 and timed.small_seconds > 0
    assert said == [timed.sentence]


def test_a_wrong_sum_stops_the_run_before_it_begins(two_ranks, monkeypatch):
    def all_reduce(buffer, op=None):
        buffer.fill_(3.0)
        buffer[-1] = 2.0

    monkeypatch.setattr(smoke.dist, "all_reduce", all_reduce)
    with pytest.raises(PeerLostError, match=r"wrong sums: 1 of 1 values are not 3, such as 2\.0") as error:
        smoke.smoke_test(torch.device("cpu"))
    assert "NCCL_P2P_DISABLE" in error.value.mend
