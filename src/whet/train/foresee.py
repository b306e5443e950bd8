"""What a recipe will need on a machine: memory, time, tokens, disk. Free of torch; no weights are read.

The choices that a run makes when it begins (strategy, samples of a pass, recompute) are made by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from whet.errors import RecipeError
from whet.estimate import memory
from whet.estimate.devices import CONTEXT_BYTES, GPUS_PER_NODE, USABLE_SHARE, Device
from whet.estimate.memory import Choice, Job, Pass, Recompute
from whet.estimate.scale import Rows
from whet.estimate.shared_layers import shared_memory_parts
from whet.estimate.time import ASSUMED_SHARES, Calibration, Work, step_seconds
from whet.estimate.traffic import Sharing
from whet.models.families import ModelShape
from whet.parallel.shards import Strategy, count_shards, divisors
from whet.recipe.resolve import derive_accumulation, fixed_micro_batch, possible_micro_batches, resolve
from whet.recipe.schema import Recipe
from whet.recipe.sharding_checks import why_not_sharded
from whet.train.disk_need import DiskNeed, disk_need
from whet.train.foreseen_rows import ForeseenRows
from whet.train.memory_savings import Setting, job_for
from whet.train.pass_size import PassSize
from whet.types import RunPlan

_STRATEGIES: dict[str, Strategy] = {"replicate": "replicate", "fsdp": "fsdp", "hsdp": "hsdp"}
_PROCESS_BYTES = 560_000_000
"""Python with torch, transformers and PEFT, tokenizer and rows read (538 to 585 MB were measured; 460 MB of it are
the imports)"""
_NOTHING = Pass(tokens=0, taught=0, probabilities=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The machine that an estimate is for."""

    name: str
    device: Literal["cpu", "cuda"]
    num_ranks: int
    compute_bytes: int
    """of a number in products, where the recipe leaves it to the machine"""
    memory_bytes: float | None
    """of one GPU, or free on this machine for all ranks; None: not known"""
    gpu: Device | None = None
    """its figures, where the table has it"""

    @property
    def ranks_per_node(self) -> int:
        return min(self.num_ranks, GPUS_PER_NODE) if self.device == "cuda" else self.num_ranks

    @property
    def process_bytes(self) -> int:
        """What lies in that memory besides what a run puts there (assumed)."""
        return CONTEXT_BYTES if self.device == "cuda" else _PROCESS_BYTES

    @property
    def usable_bytes(self) -> float | None:
        """For one rank."""
        if self.memory_bytes is None:
            return None
        return USABLE_SHARE * self.memory_bytes if self.device == "cuda" else self.memory_bytes / self.num_ranks

    def budget_bytes(self, recipe: Recipe, own_bytes: int) -> int | None:
        """What the run will allow a rank that holds `own_bytes` before it trains."""
        if self.memory_bytes is None:
            return None
        num_sharing = 1 if self.device == "cuda" else self.num_ranks
        free = max(0, int(self.memory_bytes) - num_sharing * own_bytes)
        return memory.budget_bytes(
            free_bytes=free, own_bytes=own_bytes, num_sharing=num_sharing, memory_gb=recipe.train.memory_gb
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How the ranks share the run."""

    strategy: Strategy
    num_data_ranks: int
    num_shards: int
    num_tensor_ranks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The files that the model is read from."""

    num_bytes: int
    bytes_per_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a run will need. Bytes are those of one rank."""

    target: Target
    shares: Shares
    job: Job
    rows: ForeseenRows
    plan: RunPlan
    largest: Pass
    size: PassSize
    parts: Mapping[str, int]
    """bytes of each part of the peak in training"""
    loading_bytes: int | None
    """peak while the model is read; None: not counted (on a GPU)"""
    work: Work
    disk: DiskNeed
    shape: ModelShape

    @property
    def training_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def peak_bytes(self) -> int:
        return max(self.training_bytes, self.loading_bytes or 0)

    @property
    def fits(self) -> bool | None:
        usable = self.target.usable_bytes
        return None if usable is None else self.peak_bytes <= usable

    @property
    def tokens_per_step(self) -> float:
        """On all ranks."""
        return self.plan.global_batch * self.rows.tokens_per_unit

    @property
    def num_tokens(self) -> float:
        """In all steps."""
        return self.plan.epochs * self.rows.num_samples * self.rows.mean_length

    @property
    def sharing(self) -> Sharing:
        shares = self.shares
        return Sharing(
            strategy=shares.strategy,
            num_ranks=shares.num_data_ranks,
            shards=shares.num_shards,
            ranks_per_node=max(1, self.target.ranks_per_node // shares.num_tensor_ranks),
        )

    @property
    def setting(self) -> Setting:
        """For the savings of single changes."""
        return Setting(
            shape=self.shape, plan=self.plan, layout=self.shares, device=self.target.device,
            compute_bytes=self.job.compute_bytes,
        )  # fmt: skip

    def step_seconds(self, calibration: Calibration | None = None) -> tuple[float, float] | None:
        """(least, most) of one step: as measured here, or by the data sheet with the assumed shares of its peak; None
        where neither is known."""
        if calibration is not None:
            seconds = calibration.step_seconds(self.work)
            return seconds, seconds
        if self.target.gpu is None:
            return None
        slow, fast = (step_seconds(self.work, self.sharing, self.target.gpu, reached_share=s) for s in ASSUMED_SHARES)
        return fast, slow


def foresee(
    recipe: Recipe, shape: ModelShape, rows: ForeseenRows, target: Target, files: WeightFiles | None = None
) -> Foreseen:
    """What `recipe` will need on `target`. RecipeError where its batch or its ranks cannot be cut so."""
    shares = share(recipe, shape, target)
    placed = _setting(recipe, shape, shares, target)
    job = replace(job_for(recipe, placed), process_bytes=target.process_bytes)
    choice = _choose(recipe, job, rows, shares, target)
    plan = resolve(
        recipe, world_size=shares.num_data_ranks, num_samples=rows.num_units, device=target.device,
        compute_dtype="bfloat16" if job.compute_bytes == 2 else "float32", micro_batch=choice.micro_batch,
    )  # fmt: skip
    plan = replace(plan, recompute=choice.recompute)
    largest = rows.largest(choice.micro_batch)
    counted = replace(largest.counted, is_alone=plan.accumulation == 1)
    per_pass = round(choice.micro_batch * rows.tokens_per_unit)
    return Foreseen(
        target=target,
        shares=shares,
        job=job,
        rows=rows,
        plan=plan,
        largest=counted,
        size=largest.size,
        parts=_parts(job, counted, choice.recompute, shares),
        loading_bytes=_loading_bytes(job, files) if target.device == "cpu" else None,
        work=Work(
            job=job,
            rows=Rows(mean_length=rows.mean_length, taught_share=rows.taught_share, tokens_per_pass=per_pass),
            largest=counted,
            recompute=choice.recompute,
            num_passes=plan.accumulation,
            num_tensor_ranks=shares.num_tensor_ranks,
        ),
        disk=disk_need(recipe, shape, compute_bytes=job.compute_bytes),
        shape=shape,
    )


def share(recipe: Recipe, shape: ModelShape, target: Target) -> Shares:
    """How the ranks share the run; for `auto` the simplest way whose state fits (train/placement.py)."""
    num_tensor = recipe.parallel.tensor
    if target.num_ranks % num_tensor:
        raise RecipeError(
            f"{target.num_ranks} ranks cannot be cut into tensor groups of {num_tensor}",
            where="parallel.tensor",
            mend=f"one of {divisors(target.num_ranks)}, or another --count",
        )
    num_data = target.num_ranks // num_tensor
    strategy = _STRATEGIES.get(recipe.parallel.strategy) or "replicate"
    whole = Shares(strategy=strategy, num_data_ranks=num_data, num_shards=1, num_tensor_ranks=num_tensor)
    if recipe.parallel.strategy == "auto" and num_data > 1 and why_not_sharded(recipe) is None:
        job = job_for(recipe, _setting(recipe, shape, whole, target))
        parts = memory.predict(job, _NOTHING, "full")
        state = sum(parts[name] for name in ("weights", "gradients", "moments"))
        limit = target.budget_bytes(recipe, target.process_bytes)
        strategy = "fsdp" if limit is not None and state > limit * num_tensor else "replicate"
    num_shards = count_shards(
        recipe.parallel, strategy, num_data_ranks=num_data, ranks_per_node=target.ranks_per_node
    )  # fmt: skip
    return replace(whole, strategy=strategy, num_shards=num_shards)


def _setting(recipe: Recipe, shape: ModelShape, shares: Shares, target: Target) -> Setting:
    plan = resolve(recipe, world_size=shares.num_data_ranks, num_samples=1, max_steps_override=1)
    compute_bytes = {"float32": 4, "bfloat16": 2, "float64": 8}.get(recipe.model.dtype, target.compute_bytes)
    return Setting(shape=shape, plan=plan, layout=shares, device=target.device, compute_bytes=compute_bytes)


def _choose(recipe: Recipe, job: Job, rows: ForeseenRows, shares: Shares, target: Target) -> Choice:
    """Samples of a pass and recompute, as the run will choose them; where no memory is known, as the recipe says."""
    fixed = recipe.train.recompute
    micro = fixed_micro_batch(recipe.batch, shares.num_data_ranks)
    derive_accumulation(recipe.batch, shares.num_data_ranks, micro)
    levels: tuple[Recompute, ...] = memory.LEVELS if fixed == "auto" else (fixed,)
    parts = partial(_parts, shares=shares)
    held = parts(job, _NOTHING, "full")
    budget = target.budget_bytes(recipe, held["process"] + held["weights"])
    if budget is None:
        levels, budget = levels[:1], 0
        candidates = [micro]
    elif recipe.batch.micro_size != "auto":
        candidates = [micro]
    else:
        candidates = possible_micro_batches(recipe.batch, shares.num_data_ranks)
    return memory.choose(
        job,
        {n: rows.largest(n).counted for n in candidates},
        budget_bytes=budget,
        enough_tokens=memory.ENOUGH_TOKENS[target.device],
        levels=levels,
        parts=parts,
    )


def _parts(job: Job, one_pass: Pass, recompute: Recompute, shares: Shares) -> dict[str, int]:
    return shared_memory_parts(
        job, one_pass, recompute, num_shards=shares.num_shards, num_ranks=shares.num_tensor_ranks
    )  # fmt: skip


def _loading_bytes(job: Job, files: WeightFiles | None) -> int:
    """Peak while the model is read into the host's memory: a file is mapped, and its pages count until it is closed.

    Weights that need no conversion stay in those pages. Without files, 2 bytes a weight are assumed of them.
    """
    num_bytes, each = (files.num_bytes, files.bytes_per_weight) if files else (2 * job.num_base, 2.0)
    is_converted = abs(each - job.compute_bytes) > 0.5
    return job.process_bytes + num_bytes + (job.num_base * job.compute_bytes if is_converted else 0)
