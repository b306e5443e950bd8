"""Rings: the bytes of the formula are those that a ring played step by step sends; time is bytes and hops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whet.estimate.network import (
    ETHERNET_NODES,
    HOPPER_NODES,
    Group,
    Link,
    Network,
    ring_bandwidth,
    ring_bytes,
    ring_seconds,
)

PLAIN = Network(
    name="plain",
    gpus_per_node=4,
    inside=Link(bytes_per_second=100.0, hop_seconds=1.0, source="made up"),
    between=Link(bytes_per_second=10.0, hop_seconds=5.0, source="made up"),
    start_seconds=0.5,
)


def played(kind: str, num_ranks: int, piece_bytes: int = 10) -> tuple[list[int], int]:
    """Bytes that each rank sends and the hops, with pieces that really move; every rank ends with what it should."""
    num_pieces, sent, hops = num_ranks, [0] * num_ranks, 0
    # which ranks' contributions each rank has of each piece
    has = [[{rank} for _ in range(num_pieces)] for rank in range(num_ranks)]
    if kind in ("reduce_scatter", "all_reduce"):
        for step in range(num_ranks - 1):
            hops += 1
            moving = [(rank, (rank - step) % num_ranks) for rank in range(num_ranks)]
            parts = [set(has[rank][piece]) for rank, piece in moving]
            for (rank, piece), part in zip(moving, parts, strict=True):
                has[(rank + 1) % num_ranks][piece] |= part
                sent[rank] += piece_bytes
        for rank in range(num_ranks):
            assert has[rank][(rank + 1) % num_ranks] == set(range(num_ranks))
    if kind in ("all_gather", "all_reduce"):
        whole = [[piece == (rank + 1) % num_ranks for piece in range(num_pieces)] for rank in range(num_ranks)]
        for step in range(num_ranks - 1):
            hops += 1
            moving = [(rank, (rank + 1 - step) % num_ranks) for rank in range(num_ranks)]
            assert all(whole[rank][piece] for rank, piece in moving)
            for rank, piece in moving:
                whole[(rank + 1) % num_ranks][piece] = True
                sent[rank] += piece_bytes
        assert all(all(pieces) for pieces in whole)
    return sent, hops


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_reduce"])
@pytest.mark.parametrize("num_ranks", [2, 3, 5, 8])
def test_a_ring_played_step_by_step_sends_what_the_formula_says(kind, num_ranks):
    sent, hops = played(kind, num_ranks)
    payload = 10 * num_ranks
    assert sent == [pytest.approx(ring_bytes(kind, payload, num_ranks))] * num_ranks
    free = replace(PLAIN, inside=replace(PLAIN.inside, bytes_per_second=1e30), start_seconds=0.0)
    assert ring_seconds(kind, payload, Group(num_ranks=num_ranks), free) == pytest.approx(hops)


def test_one_rank_sends_nothing_and_waits_for_nobody():
    assert ring_bytes("all_reduce", 1e9, 1) == 0
    assert ring_seconds("all_reduce", 1e9, Group(num_ranks=1), PLAIN) == 0


def test_time_in_a_node_by_hand():
    # 2 x 3/4 x 400 bytes at 100 a second, 6 hops, one start
    assert ring_seconds("all_reduce", 400, Group(num_ranks=4), PLAIN) == pytest.approx(6 + 6 + 0.5)


def test_between_nodes_the_slower_of_both_counts_and_hops_are_of_two_kinds():
    both = Group(num_ranks=8, num_nodes=2)
    assert ring_bandwidth(both, PLAIN) == 40  # four cards of 10
    # 7/8 x 800 bytes at 40, 6 hops inside and one between
    assert ring_seconds("all_gather", 800, both, PLAIN) == pytest.approx(700 / 40 + 6 + 5 + 0.5)
    fast = replace(PLAIN, between=replace(PLAIN.between, bytes_per_second=1000.0))
    assert ring_bandwidth(both, fast) == 100  # NVLink is the slower one


def test_one_rank_of_each_node_has_one_card_and_no_nvlink():
    copies = Group(num_ranks=8, num_nodes=8)
    assert ring_bandwidth(copies, PLAIN) == 10
    assert ring_seconds("all_reduce", 80, copies, PLAIN) == pytest.approx(2 * 70 / 10 + 14 * 5 + 0.5)


def test_the_networks_of_the_page_name_their_sources():
    for network in (HOPPER_NODES, ETHERNET_NODES):
        assert network.inside.source and network.between.source
        assert network.between.bytes_per_second < network.inside.bytes_per_second
