"""(seed, epoch) -> one global order of samples -> this rank's micro-batches.

The order does not know how many ranks there are: every rank computes the same step's samples and takes its
share, so a run on 1, 2 or 4 ranks sees the same samples in the same steps. The state is the step alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from whet.types import RunPlan


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """int64 [num_samples]: a permutation, another one in each epoch, the same on every machine."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_samples)


def step_indices(plan: RunPlan, *, seed: int, step: int) -> np.ndarray:
    """Indices of the samples of 0-based optimizer step `step`; the last step of an epoch may be short."""
    epoch, step_in_epoch = divmod(step, plan.steps_per_epoch)
    order = epoch_order(plan.num_samples, seed=seed, epoch=epoch)
    return order[step_in_epoch * plan.global_batch : (step_in_epoch + 1) * plan.global_batch]


def rank_micro_batches(indices: np.ndarray, plan: RunPlan, *, rank: int) -> list[np.ndarray]:
    """This rank's micro-batches of one step: `accumulation` arrays of at most `micro_batch` indices.

    Micro-batches are dealt round-robin, so in a short step the ranks differ by at most one of them; an empty
    array still counts as a turn, which keeps every rank at the same number of turns.
    """
    chunks = [indices[i : i + plan.micro_batch] for i in range(0, len(indices), plan.micro_batch)]
    mine = chunks[rank :: plan.world_size]
    return mine + [indices[:0]] * (plan.accumulation - len(mine))


def batch_hash(sample_ids: Sequence[str]) -> str:
    """16 hex digits over the sample ids of a step in order, to compare runs line by line."""
    return hashlib.sha256("\n".join(sample_ids).encode("utf-8", "surrogatepass")).hexdigest()[:16]
