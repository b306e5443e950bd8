"""A few real passes of a recipe on this machine: what their operations took, and the memory that was held.

The model, the rows, the kernels and the choices are those of the run. Nothing is updated, and nothing stays but
tokens and models in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from whet import allocator
from whet.data.pipeline import prepare
from whet.data.sampler import order_of
from whet.errors import StorageError
from whet.estimate.scale import Rows, operations_per_token
from whet.estimate.time import Calibration, SavePace
from whet.models.tokenizer import load_tokenizer
from whet.parallel.env import Env, choose_device
from whet.parallel.mesh import layout_of
from whet.recipe.resolve import resolve
from whet.recipe.schema import Recipe
from whet.train import memory_plan, preflight
from whet.train.callbacks import Callbacks
from whet.train.finish import peak_memory_bytes
from whet.train.fit import NUM_MEASURED, measure_step
from whet.train.frozen_base import DTYPE_NAMES, load_base
from whet.train.loop import Training
from whet.train.run import build_training, measured_plan
from whet.train.save_pace import measure_save_pace
from whet.types import RunPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the passes took and held."""

    calibration: Calibration
    peak_bytes: int
    """of this process, without moments and a checkpoint"""
    plan: RunPlan
    """what the run would have decided"""
    saves: SavePace | None = None
    """None: nothing could be written where the run would save"""


def measure_steps(recipe: Recipe, checkpoint_bytes: int, say: Callable[[str], None]) -> Measured:
    """Passes of the first three steps of `recipe`, as its run would make them, by one process; then a part of a
    checkpoint of so many bytes is written where the run would save, and thrown away.

    Errors are those of the run until then.
    """
    allocator.keep_freed_memory()
    env = Env()
    device = choose_device(recipe.train.device, env)
    num_threads = preflight.set_threads(recipe.train.threads, env, device, say)
    torch.manual_seed(recipe.seed)
    text_side = load_tokenizer(recipe.model)
    data = prepare(recipe, text_side.tokenizer, end_ids=text_side.stop_ids, base_folder=Path.cwd(), say=say)
    loaded = load_base(recipe, device, data.train.samples).loaded
    order, layout = order_of(recipe, data.train), layout_of(recipe.parallel, env, strategy="replicate")
    plan = resolve(
        recipe, world_size=1, num_samples=order.num_units, device=device.type,
        compute_dtype=DTYPE_NAMES[loaded.compute_dtype], num_threads=num_threads,
    )  # fmt: skip
    plan = measured_plan(recipe, plan, env, layout, device, loaded, data, order, say)
    training = build_training(
        recipe, plan, env, layout, device, loaded, data, order, Callbacks([]), is_restored=False
    )  # fmt: skip
    say(f"measuring {NUM_MEASURED} steps of {plan.accumulation} passes")
    step_time = measure_step(training)
    job = memory_plan.job_of(recipe, loaded, device, process_bytes=0)
    per_token = operations_per_token(job, _rows_of(training), plan.recompute)
    rate = _tokens_of_a_step(training) * per_token / step_time.passes
    return Measured(
        calibration=Calibration(
            operations_per_second=rate,
            pass_seconds=step_time.passes,
            update_seconds=step_time.update,
            num_steps=NUM_MEASURED,
        ),
        peak_bytes=peak_memory_bytes(device),
        plan=plan,
        saves=_saves(recipe, checkpoint_bytes, device, say),
    )


def _saves(recipe: Recipe, checkpoint_bytes: int, device: torch.device, say: Callable[[str], None]) -> SavePace | None:
    try:
        return measure_save_pace(Path(recipe.output), checkpoint_bytes, device)
    except StorageError as error:
        say(f"checkpoints were not timed: {error.what}")
        return None


def _steps(run: Training) -> list[int]:
    return [step % run.plan.steps_per_epoch for step in range(NUM_MEASURED)]


def _tokens_of_a_step(run: Training) -> float:
    """Of the measured ones, on average."""
    return sum(run.rows(step).num_tokens for step in _steps(run)) / NUM_MEASURED


def _rows_of(run: Training) -> Rows:
    lengths = run.order.lengths
    num_tokens = int(lengths.sum())
    return Rows(
        mean_length=num_tokens / len(lengths),
        taught_share=int(run.num_taught.sum()) / num_tokens,
        tokens_per_pass=num_tokens,
    )
