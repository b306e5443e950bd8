"""What one of n ranks holds of a Llama-shaped model whose tensors are cut by rows (FSDP2), to the byte.

A tensor of R rows is cut into pieces of ceil(R / n) rows; the last pieces may be shorter or empty, and travel padded to
the length of the others. What is small may stay whole on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whet.estimate.memory import Job

Shape = tuple[int, int]
"""[rows, columns]; a vector has one column"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The tensors of a model without its adapter, by the group in which they are gathered."""

    block: tuple[Shape, ...]
    """of one decoder block"""
    num_blocks: int
    rest: tuple[Shape, ...]
    """embedding, and output head where it is another tensor"""
    whole: tuple[Shape, ...] = ()
    """of the whole model, on every rank"""

    @property
    def num_block(self) -> int:
        return num_entries(self.block)

    @property
    def num_rest(self) -> int:
        return num_entries(self.rest)

    @property
    def num_whole(self) -> int:
        return num_entries(self.whole)

    @property
    def num_all(self) -> int:
        return self.num_blocks * self.num_block + self.num_rest + self.num_whole


def weights_of(job: Job) -> Weights:
    """The tensors of the model that `job` trains. Norms that train stay whole on every rank; frozen ones are cut."""
    hidden, channels = job.hidden, job.intermediate
    linear = (
        (job.query_size, hidden), (job.key_size, hidden), (job.key_size, hidden), (hidden, job.query_size),
        (channels, hidden), (channels, hidden), (hidden, channels),
    )  # fmt: skip
    norm = (hidden, 1)
    tables = ((job.vocab, hidden),) * (1 if job.is_tied else 2)
    if job.trains_all:
        return Weights(block=linear, num_blocks=job.num_layers, rest=tables, whole=(norm,) * (2 * job.num_layers + 1))
    return Weights(block=(*linear, norm, norm), num_blocks=job.num_layers, rest=(*tables, norm))


def num_entries(shapes: Iterable[Shape]) -> int:
    return sum(rows * columns for rows, columns in shapes)


def own_rows(rows: int, num_shards: int, shard: int) -> range:
    """The rows of a tensor that rank `shard` of `num_shards` holds; empty for the last ones where rows are few."""
    each = -(-rows // num_shards)
    return range(min(rows, shard * each), min(rows, (shard + 1) * each))


def shard_entries(shapes: Iterable[Shape], num_shards: int, shard: int = 0) -> int:
    """Entries of one rank's pieces; those of the first rank are what every rank's are padded to."""
    return sum(len(own_rows(rows, num_shards, shard)) * columns for rows, columns in shapes)


def own_entries(weights: Weights, num_shards: int, shard: int = 0) -> int:
    """Entries of the whole model that one rank holds while nothing is gathered."""
    blocks = weights.num_blocks * shard_entries(weights.block, num_shards, shard)
    return blocks + shard_entries(weights.rest, num_shards, shard) + weights.num_whole


def gathered_entries(shapes: Iterable[Shape], num_shards: int) -> int:
    """Entries of a group as it travels: every piece as long as the first."""
    return num_shards * shard_entries(shapes, num_shards)
