"""Samples of a pass and recompute from the free memory, decided once by rank 0 and kept in the run's plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from whet import allocator
from whet.data.sampler import Order
from whet.estimate import memory
from whet.estimate.hardware import free_memory_bytes
from whet.estimate.memory import Job, Pass
from whet.estimate.shared_layers import shared_memory_parts
from whet.models.families import LLAMA_SHAPED, shape_from_config
from whet.models.load import LoadedModel
from whet.parallel.env import Env
from whet.parallel.mesh import Layout
from whet.parallel.reduce import barrier, broadcast_text
from whet.recipe.resolve import derive_accumulation, possible_micro_batches
from whet.recipe.schema import Recipe
from whet.train.finish import peak_memory_bytes
from whet.train.memory_job import job_from
from whet.types import RunPlan

MOST_STEPS_LOOKED_AT = 256


def decide(
    recipe: Recipe, plan: RunPlan, *, loaded: LoadedModel, order: Order, num_taught: np.ndarray, env: Env,
    device: torch.device, layout: Layout, say: Callable[[str], None],
) -> RunPlan:  # fmt: skip
    """`plan` with micro-batch, recompute and predicted memory, the same on every rank.

    What the recipe fixes stays; where the free memory or the model's shape is not known, nothing is predicted, and
    `auto` means few samples and no recompute.
    """
    fixed = replace(plan, recompute="none" if recipe.train.recompute == "auto" else recipe.train.recompute)
    barrier(is_patient=True)  # every rank has loaded its model, so what is free now is free for training
    if loaded.model.config.model_type not in LLAMA_SHAPED:
        return fixed
    # free memory differs from rank to rank and from moment to moment: one of them decides
    choice = _choose(recipe, plan, loaded, order, num_taught, env, device, layout) if env.is_main else None
    # what loading took at its peak counts too where training takes less
    peak = choice and max(choice.predicted_bytes, peak_memory_bytes(device))
    chosen = choice and [choice.micro_batch, choice.recompute, peak, choice.parts]
    decided = json.loads(broadcast_text(json.dumps(chosen)))
    if decided is None:
        return fixed
    micro, recompute, predicted, parts = decided
    num_lanes = 1 if layout.mesh is not None else _lanes(recipe, plan, micro)
    if choice is not None:
        say(choice.sentence(num_lanes))
    cut = _cut(fixed, micro // num_lanes)
    return replace(
        cut, num_lanes=num_lanes, recompute=recompute, predicted_memory_bytes=predicted, predicted_memory_parts=parts
    )


def _lanes(recipe: Recipe, plan: RunPlan, micro: int) -> int:
    """Two where a CPU has the threads, an adapter's gradients are few, and what fits at a time can be halved."""
    may = plan.device == "cpu" and plan.num_threads > 1 and recipe.adapter.method != "none"
    return 2 if may and recipe.batch.micro_size == "auto" and micro % 2 == 0 else 1


def _choose(
    recipe: Recipe, plan: RunPlan, loaded: LoadedModel, order: Order, num_taught: np.ndarray, env: Env,
    device: torch.device, layout: Layout,
) -> memory.Choice | None:  # fmt: skip
    """None where it is not known what is free."""
    limit = budget_bytes(recipe, env, device)
    if limit is None:
        return None
    is_here = loaded.model.device.type == device.type
    return memory.choose(
        job_of(recipe, loaded, device, process_bytes=_held_bytes(device) - _model_bytes(loaded) * is_here),
        {micro: largest_pass(order, _cut(plan, micro), num_taught) for micro in _candidates(recipe, plan)},
        budget_bytes=limit,
        enough_tokens=memory.ENOUGH_TOKENS[device.type],
        levels=memory.LEVELS if recipe.train.recompute == "auto" else (recipe.train.recompute,),
        parts=partial(shared_memory_parts, num_shards=layout.num_shards, num_ranks=layout.num_tensor_ranks),
    )


def budget_bytes(recipe: Recipe, env: Env, device: torch.device) -> int | None:
    """What this rank may hold; None where it is not known what is free."""
    free = _free_bytes(device)
    if free is None:
        return None
    return memory.budget_bytes(
        free_bytes=free,
        own_bytes=_held_bytes(device),
        num_sharing=1 if device.type == "cuda" else env.local_world_size,
        memory_gb=recipe.train.memory_gb,
    )


def continued(recipe: Recipe, saved: RunPlan, world_size: int) -> RunPlan:
    """What was decided stays decided; what the recipe says now is done, and other ranks cut the same step anew."""
    micro: int
    if recipe.batch.micro_size != "auto":
        micro = recipe.batch.micro_size
    else:
        fitting = possible_micro_batches(recipe.batch, world_size)
        micro = max((n for n in fitting if n <= saved.micro_batch), default=1)
    recompute = saved.recompute if recipe.train.recompute == "auto" else recipe.train.recompute
    return replace(
        saved,
        world_size=world_size,
        micro_batch=micro,
        num_lanes=saved.num_lanes if recipe.batch.micro_size == "auto" else 1,
        accumulation=derive_accumulation(recipe.batch, world_size, micro),
        recompute=recompute,
    )


def job_of(recipe: Recipe, loaded: LoadedModel, device: torch.device, *, process_bytes: int) -> Job:
    """The sizes that memory follows from."""
    job = job_from(
        recipe,
        shape_from_config(loaded.model.config.to_dict()),
        compute_bytes=loaded.compute_dtype.itemsize,
        device="cuda" if device.type == "cuda" else "cpu",
    )
    base_bytes = _model_bytes(loaded) if recipe.model.quantize != "none" else None
    return replace(job, base_bytes=base_bytes, process_bytes=max(0, process_bytes))


def largest_pass(order: Order, plan: RunPlan, num_taught: np.ndarray) -> Pass:
    """The most of everything that any pass of the first epoch holds (of some of its steps, where they are many)."""
    shared = order.shared_prefix if plan.share_prefix else 0
    lengths = np.flatnonzero(np.bincount(order.lengths)).tolist()
    probabilities = np.zeros(lengths[-1] + 1, dtype=np.int64)  # by length: there may be millions of samples
    probabilities[lengths] = [memory.kept_probabilities(length, shared) for length in lengths]
    of_prefix = memory.kept_probabilities(shared)
    stride = -(-plan.steps_per_epoch // MOST_STEPS_LOOKED_AT)
    # a sample alone shares nothing
    tokens, taught, kept = lengths[-1], int(num_taught.max()), max(map(memory.kept_probabilities, lengths))
    for step in range(0, plan.steps_per_epoch, stride):
        for one_pass in order.step(plan, step).passes:
            tokens = max(tokens, int(order.lengths[one_pass].sum()) - shared * max(0, len(one_pass) - 1))
            taught = max(taught, int(num_taught[one_pass].sum()))
            kept = max(kept, int(probabilities[order.lengths[one_pass]].sum()) + of_prefix)
    return Pass(tokens=tokens, taught=taught, probabilities=int(kept))


def _candidates(recipe: Recipe, plan: RunPlan) -> list[int]:
    if recipe.batch.micro_size != "auto":
        return [plan.micro_batch]
    return possible_micro_batches(recipe.batch, plan.world_size)


def _cut(plan: RunPlan, micro_batch: int) -> RunPlan:
    accumulation = plan.global_batch // (micro_batch * plan.world_size)
    return replace(plan, micro_batch=micro_batch, accumulation=accumulation)


def _free_bytes(device: torch.device) -> int | None:
    if device.type != "cuda":
        return free_memory_bytes()
    # what torch's allocator keeps is free for training too, although the driver counts it as taken
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _held_bytes(device: torch.device) -> int:
    """What this process holds now: the resident set on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return allocator.held_bytes() or peak_memory_bytes(device)


def _model_bytes(loaded: LoadedModel) -> int:
    return sum(weight.nbytes for weight in loaded.model.parameters())
