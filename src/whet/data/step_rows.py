"""What one optimizer step trains on: the packed rows of this rank, and what all ranks know of the whole step.

Only this rank's rows are read; of the others the order knows lengths, taught tokens and ids.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from whet.data.packing import fill_turn, pack
from whet.data.sampler import Order, Step, balance, batch_hash
from whet.data.token_set import CachedSamples
from whet.types import PackedBatch, RunPlan, TokenizedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """Invariant: apart from `batches` the same on every rank, whatever the number of ranks."""

    step: int
    """0-based"""
    batches: tuple[PackedBatch, ...]
    """this rank's micro-batches, in the host's memory; a turn without samples is left out, or filled"""
    sample_ids: tuple[str, ...]
    """of all ranks, in the global order"""
    num_tokens: int
    num_taught: int
    batch_hash: str
    num_parts: int = 1
    """that every pass of the plan was cut into"""


def read_step(
    samples: Sequence[TokenizedSample], num_taught: np.ndarray, order: Order, plan: RunPlan, step: int,
    *, rank: int, num_parts: int = 1, left_out: Collection[str] = (), is_pinned: bool = False,
    fills_turns: bool = False,
) -> StepRows:  # fmt: skip
    """Read and pack what `rank` takes of 0-based `step`, every sample once.

    `num_taught`: int [num_samples]; `num_parts`: of every pass of the plan, about equally long; `left_out`: ids of
    samples that are taken out of their passes; `is_pinned`: in memory that a GPU copies without waiting; `fills_turns`:
    every rank has as many passes as the one that has most, where all must take part in each.
    """
    taken = _without(left_out, order.step(plan, step), samples)
    turns = _turns(taken, rank, plan.world_size, order.lengths, num_parts)
    own = {int(i): samples[i] for turn in turns for i in turn}
    ids = tuple(own[i].id if i in own else sample_id(samples, i) for i in taken.indices.tolist())
    batches = [
        pack([own[i] for i in turn.tolist()], is_pinned=is_pinned, share_prefix=plan.share_prefix) for turn in turns
    ]
    if fills_turns:
        ranks = range(plan.world_size)
        most = max(len(_turns(taken, each, plan.world_size, order.lengths, num_parts)) for each in ranks)
        batches += [fill_turn(is_pinned=is_pinned)] * (most - len(turns))
    return StepRows(
        step=step,
        batches=tuple(batches),
        sample_ids=ids,
        num_tokens=int(order.lengths[taken.indices].sum(dtype=np.int64)),
        num_taught=int(num_taught[taken.indices].sum(dtype=np.int64)),
        batch_hash=batch_hash(ids),
        num_parts=num_parts,
    )


def _without(left_out: Collection[str], taken: Step, samples: Sequence[TokenizedSample]) -> Step:
    """The step as if those samples were not there; the others stay in their passes."""
    gone = [i for i in taken.indices.tolist() if sample_id(samples, i) in left_out] if left_out else []
    if not gone:
        return taken
    passes = tuple(each[~np.isin(each, gone)] for each in taken.passes)
    return Step(indices=taken.indices[~np.isin(taken.indices, gone)], passes=passes)


def _turns(taken: Step, rank: int, num_ranks: int, lengths: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """The samples of each pass of this rank that has any, or of the parts of each pass."""
    turns = [turn for turn in taken.of_rank(rank, num_ranks) if len(turn)]
    if num_parts == 1:
        return turns
    return [turn[part] for turn in turns for part in balance(lengths[turn].tolist(), num_parts) if part]


def sample_id(samples: Sequence[TokenizedSample], index: int) -> str:
    """The id of a sample; from the token cache without its tokens."""
    return samples.id_of(index) if isinstance(samples, CachedSamples) else samples[index].id
