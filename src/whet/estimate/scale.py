"""Memory and step time of a job on 1 to many GPUs: computed, not measured. Pure arithmetic.

Memory of a GPU = process + its weights, gradients and moments + what is gathered + activations + work + slack
    its share      of n ranks that hold one copy together: 1/n of each tensor (estimate/sharding.py)
    gathered       two blocks in the compute dtype, the one in use and the next, and embedding and head as they are held
    reducing       where all weights train: a block's gradients in the compute dtype and in float32, and those of
                   embedding and head in float32
    the others     those of one GPU (estimate/memory.py)

Time of a step = the longer of computing and overlapped network + network that waits
    computing      operations / (the card's products per second x the share of them that is reached)
    operations     of a token: 4 for each weight that is multiplied (6 where it trains), 6 for each of an adapter,
                   2 more for what is computed anew; the head for taught tokens; attention 6 x entries of the queries x
                   mean length for each layer
    network        every collective of the step (estimate/traffic.py) as a ring (estimate/network.py)

Stragglers, the loading of rows and checkpoints are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from whet.estimate import memory
from whet.estimate.devices import DEVICES, USABLE_SHARE
from whet.estimate.memory import FLOAT32_BYTES, Job, Pass, Recompute
from whet.estimate.network import Network
from whet.estimate.sharding import own_entries, weights_of
from whet.estimate.traffic import Sharing, calls, sent_bytes

GATHERED_BLOCKS = 2
"""in memory at a time: FSDP2 asks for the next one while one is in use"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU of the data sheet."""

    name: str
    memory_bytes: float
    flops: float
    """dense bfloat16 products and sums per second"""
    reached_share: float
    """of them, in training"""
    source: str
    usable_share: float = USABLE_SHARE
    """of the memory; the rest is the driver's, and holes (assumed)"""


_REACHED = (
    "0.406 of them: the best published figure of a stack on PyTorch for Llama-3-8B LoRA in bfloat16 (NeMo AutoModel, "
    "performance summary: 402 TFLOP/s on one H100); Megatron reaches 0.50 to 0.56 (NVIDIA dgxc-benchmarking v25.02)"
)
H100 = Card(
    name="H100 80 GB", memory_bytes=DEVICES["h100"].memory_bytes, flops=DEVICES["h100"].flops, reached_share=0.406,
    source=f"data sheet of the SXM card; {_REACHED}",
)  # fmt: skip
H200 = replace(H100, name="H200 141 GB", memory_bytes=DEVICES["h200"].memory_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a pass consists of."""

    mean_length: float
    """tokens of a document"""
    taught_share: float
    tokens_per_pass: int

    def as_pass(self) -> Pass:
        return Pass(
            tokens=self.tokens_per_pass, taught=round(self.taught_share * self.tokens_per_pass), probabilities=0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One job on so many GPUs."""

    sharing: Sharing
    recompute: Recompute
    parts: dict[str, int]
    """bytes of one GPU at its peak, by component"""
    limit_bytes: float
    compute_seconds: float
    """of one step"""
    overlapped_seconds: float
    """of network, beside computing"""
    waiting_seconds: float
    """of network, with nothing beside it"""
    sent_bytes: float
    """by each rank in a step"""
    tokens: int
    """of a step, on all GPUs"""

    @property
    def memory_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.limit_bytes

    @property
    def step_seconds(self) -> float:
        return max(self.compute_seconds, self.overlapped_seconds) + self.waiting_seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step_seconds

    @property
    def efficiency(self) -> float:
        """Share of a step in which products are computed."""
        return self.compute_seconds / self.step_seconds


def choose(job: Job, rows: Rows, num_gpus: int, card: Card, network: Network, *, passes: int = 1) -> Point:
    """The simplest strategy that fits, with as little recompute as it can; where none fits, what needs least."""
    points = [
        point(job, rows, sharing, card, network, recompute=level, passes=passes)
        for sharing in sharings(num_gpus, network.gpus_per_node)
        for level in memory.LEVELS
    ]
    return next((each for each in points if each.fits), min(points, key=lambda each: each.memory_bytes))


def sharings(num_gpus: int, gpus_per_node: int) -> Iterator[Sharing]:
    """From every GPU whole to one copy over all of them; nodes are full or there is one."""
    yield Sharing(strategy="replicate", num_ranks=num_gpus, shards=1, ranks_per_node=gpus_per_node)
    if num_gpus > gpus_per_node:
        yield Sharing(strategy="hsdp", num_ranks=num_gpus, shards=gpus_per_node, ranks_per_node=gpus_per_node)
    if num_gpus > 1:
        yield Sharing(strategy="fsdp", num_ranks=num_gpus, shards=num_gpus, ranks_per_node=gpus_per_node)


def point(
    job: Job, rows: Rows, sharing: Sharing, card: Card, network: Network, *, recompute: Recompute, passes: int = 1
) -> Point:  # fmt: skip
    """`job` with `passes` passes of `rows` on every rank between two updates."""
    made = calls(job, sharing, passes=passes)
    seconds = {
        is_overlapped: sum(call.seconds(network) for call in made if call.is_overlapped == is_overlapped)
        for is_overlapped in (True, False)
    }
    tokens = passes * rows.tokens_per_pass
    return Point(
        sharing=sharing,
        recompute=recompute,
        parts=memory_parts(job, rows.as_pass(), recompute, sharing.shards),
        limit_bytes=card.usable_share * card.memory_bytes,
        compute_seconds=tokens * operations_per_token(job, rows, recompute) / (card.flops * card.reached_share),
        overlapped_seconds=seconds[True],
        waiting_seconds=seconds[False],
        sent_bytes=sent_bytes(made),
        tokens=tokens * sharing.num_ranks,
    )


def memory_parts(job: Job, one_pass: Pass, recompute: Recompute, num_shards: int) -> dict[str, int]:
    """Bytes of each part of the peak of one of `num_shards` ranks that hold one copy together."""
    if num_shards == 1:
        return memory.predict(job, one_pass, recompute)
    weights, narrow = weights_of(job), job.compute_bytes
    wide = max(narrow, FLOAT32_BYTES)
    own = own_entries(weights, num_shards)
    parts = memory.predict(job, one_pass, recompute)
    gathered = GATHERED_BLOCKS * weights.num_block * narrow
    if job.trains_all:
        held = {"weights": own * wide, "gradients": own * wide, "moments": 2 * own * wide}
        gathered += weights.num_rest * wide
        reducing = weights.num_block * (narrow + wide) + weights.num_rest * wide
    else:
        adapter = job.num_trainable * wide
        held = {"weights": own * narrow + adapter, "gradients": adapter, "moments": 2 * adapter}
        gathered += weights.num_rest * narrow
        reducing = 0
    is_here = job.has_snapshot and job.device == "cpu"
    # of what trains, and of its two moments
    snapshot = {"snapshot": 3 * held["moments"] // 2 if is_here else 0} if job.has_snapshot else {}
    return parts | held | snapshot | {"checkpoint": 0, "gathered": gathered, "reducing": reducing}


def operations_per_token(job: Job, rows: Rows, recompute: Recompute) -> float:
    """Floating-point operations of one token in a step, forward and backward."""
    weights = weights_of(job)
    block = job.num_layers * weights.num_block
    head = job.vocab * job.hidden * rows.taught_share
    mlp = job.num_layers * 3 * job.hidden * job.intermediate
    anew = {"none": 0, "norms": 0, "mlp": 2 * mlp, "full": 2 * block}[recompute]
    adapter = 0 if job.trains_all else 6 * job.num_trainable
    attention = 6 * job.num_layers * job.query_size * rows.mean_length
    return (6 if job.trains_all else 4) * (block + head) + adapter + anew + attention


def tokens_to_hide_network(job: Job, rows: Rows, sharing: Sharing, card: Card, network: Network) -> float:
    """Tokens of a pass from which on computing takes as long as what travels beside it; without recompute."""
    overlapped = sum(call.seconds(network) for call in calls(job, sharing) if call.is_overlapped)
    return overlapped * card.flops * card.reached_share / operations_per_token(job, rows, "none")
