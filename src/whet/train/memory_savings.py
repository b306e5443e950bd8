"""What single changes of a recipe save of its peak, by the estimate. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from whet.errors import RecipeError
from whet.estimate.memory import FLOAT32_BYTES, Job, Recompute
from whet.estimate.shared_layers import shared_memory_parts
from whet.models.families import ModelShape
from whet.recipe import dump_recipe, parse_recipe
from whet.recipe.schema import Recipe
from whet.train.changes import FREE_TO_CHANGE, is_below
from whet.train.memory_job import job_from
from whet.train.pass_size import PassSize
from whet.types import RunPlan

LEAST_SHARE = 0.01
"""of the predicted peak without the process itself: less is not worth saying"""
_ROUND_LENGTH = 32
_FP8 = "model.quantize=fp8"
_BITS = {"nf4": 4.0 + 32 / 64, "int8": 8.0, "fp8": 8.0}
"""of a rounded weight, with the scale of each block of 64"""


class Ranks(Protocol):
    """How ranks share a run: a parallel.mesh.Layout is one."""

    @property
    def num_data_ranks(self) -> int: ...

    @property
    def num_shards(self) -> int: ...

    @property
    def num_tensor_ranks(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the estimate needs of a run besides its recipe."""

    shape: ModelShape
    plan: RunPlan
    layout: Ranks
    device: Literal["cpu", "cuda"]
    compute_bytes: int
    """of a number in products"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """One change and what it saves of the peak of a rank."""

    change: str
    """as an override: `data.max_length=512`"""
    num_bytes: int
    is_free: bool
    """whether the same run can go on with it"""

    @property
    def words(self) -> str:
        """`data.max_length=512 saves 1.20 GB`"""
        size = f"{self.num_bytes / 1e9:.2f} GB" if self.num_bytes >= 1e8 else f"{self.num_bytes / 1e6:.2g} MB"
        most = "up to " if self.change == _FP8 else ""  # which layers are rounded is measured when the run begins
        return f"{self.change} saves {most}{size}" + (" (this run can go on with it)" if self.is_free else "")


def savings(recipe: Recipe, setting: Setting, size: PassSize) -> list[Saving]:
    """Changes of `recipe` that make the peak of a pass of `size` smaller, the largest effect first.

    Those that the recipe's checks refuse are left out.
    """
    parts = predicted_parts(recipe, setting, size)
    now = sum(parts.values())
    text = dump_recipe(recipe)
    found = []
    for change in _changes(recipe, setting, size):
        try:
            changed = parse_recipe(text, "recipe", [change])
        except RecipeError:
            continue
        saved = now - predicted_bytes(changed, setting, size)
        key = change.partition("=")[0]
        is_free = is_below(key, FREE_TO_CHANGE)
        found.append(Saving(change=change, num_bytes=saved, is_free=is_free))
    worthwhile = [saving for saving in found if saving.num_bytes >= LEAST_SHARE * (now - parts["process"])]
    return sorted(worthwhile, key=lambda saving: -saving.num_bytes)


def predicted_bytes(recipe: Recipe, setting: Setting, size: PassSize) -> int:
    """Peak of a rank that trains as `recipe` says, with no larger pass than `size`."""
    return sum(predicted_parts(recipe, setting, size).values())


def predicted_parts(recipe: Recipe, setting: Setting, size: PassSize) -> dict[str, int]:
    """The same in bytes of each part, as estimate.memory names them."""
    plan, layout = setting.plan, setting.layout
    lengths = [min(length, recipe.data.max_length) for length in size.lengths]
    if recipe.batch.micro_size == 1 and recipe.batch.unit == "samples":
        lengths = [max(lengths, default=0)]
    one_pass = PassSize(lengths=tuple(lengths), num_taught=size.num_taught).counted
    recompute: Recompute = plan.recompute if recipe.train.recompute == "auto" else recipe.train.recompute
    is_spread = recipe.parallel.strategy == "fsdp" and layout.num_shards == 1
    return shared_memory_parts(
        job_for(recipe, setting),
        one_pass,
        recompute,
        num_shards=layout.num_data_ranks if is_spread else layout.num_shards,
        num_ranks=layout.num_tensor_ranks,
    )


def job_for(recipe: Recipe, setting: Setting) -> Job:
    """The sizes that memory follows from, a rounded base included."""
    compute_bytes = 2 if recipe.model.dtype == "bfloat16" else setting.compute_bytes
    job = job_from(recipe, setting.shape, compute_bytes=compute_bytes, device=setting.device)
    if (bits := _BITS.get(recipe.model.quantize)) is None:
        return job
    sizes = setting.shape.projection_sizes().values()
    num_rounded = setting.shape.num_layers * sum(inputs * outputs for inputs, outputs in sizes)
    return replace(job, base_bytes=int((job.num_base - num_rounded) * compute_bytes + num_rounded * bits / 8))


def _changes(recipe: Recipe, setting: Setting, size: PassSize) -> Iterator[str]:
    """What can be tried, whether or not it helps."""
    longest = max(size.lengths, default=0)
    half = -(-longest // 2 // _ROUND_LENGTH) * _ROUND_LENGTH
    if 0 < half < longest:
        yield f"data.max_length={half}"
    if setting.plan.recompute != "full":
        yield "train.recompute=full"
    if len(size.lengths) > 1 and recipe.batch.micro_size != 1:
        yield "batch.micro_size=1"
    if setting.compute_bytes >= FLOAT32_BYTES:
        yield "model.dtype=bfloat16"
    if recipe.adapter.method == "none":
        yield from ("adapter.method=lora", "optim.master=float32")
    else:
        yield f"adapter.rank={max(1, recipe.adapter.rank // 2)}"
    if recipe.optim.name != "adamw_8bit":
        yield "optim.name=adamw_8bit"
    if recipe.model.quantize == "none" and setting.device == "cuda":
        yield from ("model.quantize=nf4", _FP8)
    if setting.layout.num_data_ranks > 1 and setting.layout.num_shards == 1:
        yield "parallel.strategy=fsdp"
