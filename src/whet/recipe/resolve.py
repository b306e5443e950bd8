"""The arithmetic of a run: (recipe, world size, number of samples) -> RunPlan. Pure; no file, no clock, no torch."""

from __future__ import annotations

import math
from typing import Literal

from whet.errors import RecipeError
from whet.recipe.checks import either, nearest_divisors, nearest_multiples
from whet.recipe.schema import Batch, Recipe
from whet.types import RunPlan

CADENCE_PARTS = 10
"""Checkpoints and loss evaluations of a run that does not say how often."""


ASSUMED_MICRO_BATCH = 4
"""Most samples per forward pass where the recipe says `auto` and nothing has measured the memory."""

MAX_STEPS = 2**53
"""Beyond this, floats no longer tell one step from the next."""


def resolve(
    recipe: Recipe,
    *,
    world_size: int,
    num_samples: int,
    device: str = "cpu",
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32",
    num_threads: int = 1,
    micro_batch: int | None = None,
    max_steps_override: int | None = None,
) -> RunPlan:
    """Accumulation, steps, warm-up and cadences, by the formulas of Hugging Face's Trainer.

    steps per epoch = ceil(num_samples / global batch), the last step of an epoch taking what is left;
    steps = ceil(epochs x steps per epoch) unless `train.max_steps` or `max_steps_override` sets them.
    With `train.fit_seconds` this is the upper bound; the measured count comes in as `max_steps_override`,
    which also cuts a warm-up given in steps. `micro_batch` is what was chosen for `batch.micro_size: auto`.
    RecipeError when the global batch cannot be cut evenly.
    """
    if num_samples < 1:
        raise RecipeError(
            "no training sample is left", where="data.train", mend="see what was dropped: data.max_length"
        )
    if max_steps_override is not None and max_steps_override < 1:
        raise RecipeError(f"the number of steps must be at least 1 (found {max_steps_override})", where="max steps")
    micro_batch = micro_batch or fixed_micro_batch(recipe.batch, world_size)
    accumulation = derive_accumulation(recipe.batch, world_size, micro_batch)
    steps_per_epoch = math.ceil(num_samples / recipe.batch.global_size)
    total = max_steps_override or recipe.train.max_steps or _steps(recipe.train.epochs, steps_per_epoch)
    warmup = warmup_steps(recipe.optim.warmup, total)
    if warmup > total:
        if max_steps_override is None:
            raise RecipeError(
                f"the warm-up is longer than the run ({warmup} of {total} steps)",
                where="optim.warmup",
                mend="a value below 1 is a share of the run",
            )
        warmup = total
    follows_epochs = recipe.train.max_steps is None and max_steps_override is None
    cadence = max(1, total // CADENCE_PARTS)
    return RunPlan(
        world_size=world_size,
        micro_batch=micro_batch,
        accumulation=accumulation,
        global_batch=recipe.batch.global_size,
        num_samples=num_samples,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        epochs=recipe.train.epochs if follows_epochs else total / steps_per_epoch,
        warmup_steps=warmup,
        save_every=recipe.train.save_every or cadence,
        eval_every=(recipe.train.eval_every or cadence) if recipe.data.validation else 0,
        device=device,
        compute_dtype=compute_dtype,
        num_threads=num_threads,
        # whet's own is the fastest where it was measured: benchmarks/results/loss_head.json
        loss_head="chunked" if recipe.train.loss_head == "auto" else recipe.train.loss_head,
    )


def _steps(epochs: float, steps_per_epoch: int) -> int:
    total = epochs * steps_per_epoch
    if total > MAX_STEPS:
        raise RecipeError(f"{epochs:g} epochs are {total:g} steps, too many to count", where="train.epochs")
    return math.ceil(total)


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Below 1 a share of all steps, rounded up; from 1 on a number of steps."""
    # the float product is Hugging Face's: a run planned there and here has the same learning rate at every step
    return int(warmup) if warmup >= 1 else math.ceil(total_steps * warmup)


def possible_micro_batches(batch: Batch, world_size: int) -> list[int]:
    """Samples per forward pass that cut the global batch evenly, in rising order; none where the ranks alone do not."""
    if world_size < 1 or batch.global_size % world_size:
        return []
    per_rank = batch.global_size // world_size
    small = [n for n in range(1, math.isqrt(per_rank) + 1) if per_rank % n == 0]
    return sorted({*small, *(per_rank // n for n in small)})


def fixed_micro_batch(batch: Batch, world_size: int) -> int:
    """The recipe's samples per forward pass; for `auto` the most that cut the global batch, up to four."""
    if batch.micro_size != "auto":
        return batch.micro_size
    return max((n for n in possible_micro_batches(batch, world_size) if n <= ASSUMED_MICRO_BATCH), default=1)


def derive_accumulation(batch: Batch, world_size: int, micro_batch: int) -> int:
    """Forward passes per step and rank: global / (micro x world size), exact or RecipeError with what would work."""
    if world_size < 1:
        raise RecipeError(f"the world size must be at least 1 (found {world_size})", where="world size")
    per_pass = micro_batch * world_size
    if batch.global_size % per_pass == 0:
        return batch.global_size // per_pass
    ways = [f"batch.global_size={either(nearest_multiples(batch.global_size, per_pass))}"]
    if batch.global_size % world_size == 0:
        micro = nearest_divisors(batch.global_size // world_size, micro_batch)
        ways.append(f"batch.micro_size={either(micro)}")
    if batch.global_size % micro_batch == 0:
        worlds = nearest_divisors(batch.global_size // micro_batch, world_size)
        ways.append(f"a world size of {either(worlds)}")
    raise RecipeError(
        f"{batch.global_size} samples per step cannot be cut into passes of micro-batch {micro_batch} "
        f"x world size {world_size} = {per_pass}",
        where="batch.global_size",
        mend=", or ".join(ways),
    )
