"""Which collectives a step makes, how often, and with how many bytes: one table for every strategy.

| strategy | what | collective | times in a step |
|---|---|---|---|
| replicate | gradients and a few numbers, float32 | all-reduce over all ranks | 1 |
| fsdp, hsdp | weights of a block, compute dtype | all-gather over shards | 2 x blocks x passes |
| | embedding and head, as they are held | all-gather over shards | passes |
| | what trains and is cut: gradients in float32 | reduce-scatter over shards | (blocks + 1) x passes |
| | what trains and is whole, and a few numbers | all-reduce over all ranks | 1 |
| hsdp | own part of gradients, float32 | all-reduce over copies | blocks + 1 |

Ranks that share the work of each layer move rows of hidden states at the borders of its two blocks (`tensor_calls`).

Tests count what goes through torch.distributed in a real step and compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from whet.estimate.memory import FLOAT32_BYTES, Job
from whet.estimate.network import Group, Kind, Network, ring_bytes, ring_seconds
from whet.estimate.sharding import gathered_entries, weights_of

Strategy = Literal["replicate", "fsdp", "hsdp"]
NUM_REQUESTS = 5
"""that ranks ask of each other in a step"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How ranks share a job. Invariant: num_ranks = replicas x shards."""

    strategy: Strategy
    num_ranks: int
    shards: int
    ranks_per_node: int

    @property
    def num_replicas(self) -> int:
        return self.num_ranks // self.shards

    @property
    def everyone(self) -> Group:
        return Group(num_ranks=self.num_ranks, num_nodes=-(-self.num_ranks // self.ranks_per_node))

    @property
    def shard_group(self) -> Group:
        """Ranks that hold one copy together: neighbours."""
        return Group(num_ranks=self.shards, num_nodes=-(-self.shards // self.ranks_per_node))

    @property
    def replica_group(self) -> Group:
        """Ranks that hold the same part of different copies: every shards-th."""
        per_node = max(1, self.ranks_per_node // self.shards)
        return Group(num_ranks=self.num_replicas, num_nodes=-(-self.num_replicas // per_node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A collective that every rank makes `count` times in a step."""

    what: str
    kind: Kind
    payload_bytes: int
    """of the whole, put together"""
    group: Group
    count: int = 1
    is_overlapped: bool = False
    """whether products are computed meanwhile"""

    def sent_bytes(self) -> float:
        """By each rank in a step."""
        return self.count * ring_bytes(self.kind, self.payload_bytes, self.group.num_ranks)

    def seconds(self, network: Network) -> float:
        return self.count * ring_seconds(self.kind, self.payload_bytes, self.group, network)


def calls(job: Job, sharing: Sharing, *, passes: int = 1) -> tuple[Call, ...]:
    """All collectives of a step of `job` with `passes` passes on every rank."""
    if sharing.shards == 1:
        return (_flat(job.num_trainable, sharing),)
    weights, shards = weights_of(job), sharing.shard_group
    narrow, wide = job.compute_bytes, max(job.compute_bytes, FLOAT32_BYTES)
    block, rest = (gathered_entries(shapes, sharing.shards) for shapes in (weights.block, weights.rest))
    blocks = weights.num_blocks
    rest_bytes = rest * (wide if job.trains_all else narrow)
    gathers = (
        # nothing is computed before the first block is there
        Call(what="first block", kind="all_gather", payload_bytes=block * narrow, group=shards, count=passes),
        Call(what="other blocks", kind="all_gather", payload_bytes=block * narrow, group=shards,
             count=(2 * blocks - 1) * passes, is_overlapped=True),
        Call(what="embedding and head", kind="all_gather", payload_bytes=rest_bytes, group=shards, count=passes),
    )  # fmt: skip
    if not job.trains_all:
        return (*gathers, _flat(job.num_trainable, sharing))
    scatters = (
        Call(what="gradients of blocks", kind="reduce_scatter", payload_bytes=block * wide, group=shards,
             count=blocks * passes, is_overlapped=True),
        Call(what="gradients of embedding and head", kind="reduce_scatter", payload_bytes=rest * wide, group=shards,
             count=passes),
    )  # fmt: skip
    return (*gathers, *scatters, *_between_copies(sharing, block * wide, rest * wide, blocks),
            _flat(weights.num_whole, sharing))  # fmt: skip


def _between_copies(sharing: Sharing, block_bytes: int, rest_bytes: int, num_blocks: int) -> tuple[Call, ...]:
    """Own parts of the gradients, in the last pass."""
    if sharing.num_replicas == 1:
        return ()
    own_block, own_rest = block_bytes // sharing.shards, rest_bytes // sharing.shards
    return (
        Call(what="own gradients of blocks", kind="all_reduce", payload_bytes=own_block, group=sharing.replica_group,
             count=num_blocks, is_overlapped=True),
        Call(what="own gradients of embedding and head", kind="all_reduce", payload_bytes=own_rest,
             group=sharing.replica_group),
    )  # fmt: skip


def _flat(num_gradients: int, sharing: Sharing) -> Call:
    """What every rank holds whole, with the numbers of a step, in one flat buffer."""
    payload = (num_gradients + num_numbers(sharing.num_ranks)) * FLOAT32_BYTES
    return Call(what="flat all-reduce", kind="all_reduce", payload_bytes=payload, group=sharing.everyone)


def tensor_calls(job: Job, tokens: int, num_ranks: int) -> tuple[Call, ...]:
    """Rows that travel between ranks which share the work of each layer, in a pass of `tokens`; nothing is computed
    meanwhile.

    Into each of the two blocks of a layer all rows are gathered, and out of it every rank gets its own rows of the sum;
    the backward pass turns each around. The same once more behind the embedding and the last norm; in front of the
    first block of a frozen model there is nothing to go back to.
    """
    rows = -(-tokens // num_ranks) * num_ranks
    count = 4 * job.num_layers + (2 if job.trains_all else 1)
    payload, group = rows * job.hidden * job.stream_bytes, Group(num_ranks=num_ranks)
    return (
        Call(what="rows made whole", kind="all_gather", payload_bytes=payload, group=group, count=count),
        Call(what="rows dealt out", kind="all_to_all", payload_bytes=payload, group=group, count=count),
    )


def num_numbers(num_ranks: int) -> int:
    """That travel with the gradients: the loss, the norm of what is cut, the requests, and every rank's seconds."""
    return 2 + NUM_REQUESTS + num_ranks


def sent_bytes(made: Sequence[Call]) -> float:
    """By each rank in a step."""
    return sum(call.sent_bytes() for call in made)
