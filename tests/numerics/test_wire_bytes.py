"""Law: a step sends what estimate/traffic.py says: counted in two ranks, by collective and at their sockets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import wire_cases
from rank_launcher import launch

from whet.estimate.memory import Job
from whet.estimate.network import ring_bytes
from whet.estimate.traffic import Sharing, calls, tensor_calls

WORLD_SIZE = 2
NEGLIGIBLE = 4096
"""bytes of barriers and headers around a collective of 12 MB"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What each rank of one launch counted."""
    folder = tmp_path_factory.mktemp("wire")
    launch(Path(wire_cases.__file__), str(folder), num_ranks=WORLD_SIZE, timeout_seconds=150)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(WORLD_SIZE)]


def job(*, trains_all: bool, num_trainable: int, compute_bytes: int) -> Job:
    return Job(
        **wire_cases.TINY, num_base=0, num_trainable=num_trainable, trains_all=trains_all, is_fused=True,
        narrow_values=0, compute_bytes=compute_bytes, is_tied=True,
    )  # fmt: skip


def expected(made) -> dict:
    """(kind, payload) -> times in a step."""
    counts: Counter = Counter()
    for call in made:
        counts[call.kind, call.payload_bytes] += call.count
    return dict(counts)


def seen(document: dict) -> dict:
    return {(kind, payload): count for kind, payload, count in document["seen"]}


def sharing(strategy: str) -> Sharing:
    shards = 1 if strategy == "replicate" else WORLD_SIZE
    return Sharing(strategy=strategy, num_ranks=WORLD_SIZE, shards=shards, ranks_per_node=8)


def test_an_adapter_on_every_rank_costs_one_all_reduce_of_its_gradients_and_a_few_numbers(launched):
    for document in launched:
        found = document["replicate"]
        small = job(trains_all=False, num_trainable=found["num_trainable"], compute_bytes=4)
        assert seen(found) == expected(calls(small, sharing("replicate"), passes=4))


@pytest.mark.parametrize("case", ["all weights", "adapter"])
def test_sharded_weights_are_gathered_and_scattered_as_the_table_says(launched, case):
    trains_all = case == "all weights"
    for document in launched:
        found = document[case]
        small = job(trains_all=trains_all, num_trainable=found["num_whole"], compute_bytes=4 if trains_all else 2)
        made = expected(calls(small, sharing("fsdp"), passes=wire_cases.PASSES))
        # the loop sends more numbers along than this case's one
        whole = next(call for call in calls(small, sharing("fsdp")) if call.what == "flat all-reduce")
        del made["all_reduce", whole.payload_bytes]
        made["all_reduce", 4 * (found["num_whole"] + 1)] = 1
        assert seen(found) == made


@pytest.mark.parametrize("case", ["all weights", "adapter"])
def test_ranks_that_share_layers_move_rows_as_often_as_the_table_says(launched, case):
    small = job(trains_all=case == "all weights", num_trainable=0, compute_bytes=4)
    made = expected(tensor_calls(small, wire_cases.NUM_TOKENS, WORLD_SIZE))
    for document in launched:
        found = seen(document[f"{case}, shared layers"])
        assert {key: found.get(key) for key in made} == made


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather"])
def test_as_many_bytes_leave_through_the_sockets_as_a_ring_sends(launched, kind):
    for document in launched:
        payload, sent = document["sockets"][kind]
        assert sent == pytest.approx(ring_bytes(kind, payload, WORLD_SIZE), abs=NEGLIGIBLE)
