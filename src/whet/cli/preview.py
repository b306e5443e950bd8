"""The numbers of a run before it starts, from its recipe alone: steps, weights, bytes, and what is not known yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from whet.errors import WhetError
from whet.models.families import find_shape, num_adapter_parameters, num_parameters
from whet.recipe.explain import explain_recipe
from whet.recipe.resolve import derive_accumulation, fixed_micro_batch, resolve, warmup_steps
from whet.recipe.schema import Recipe, Source
from whet.recipe.splits import num_rows_taken, parse_split, source_kind
from whet.train.disk_need import disk_need
from whet.types import RunPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Weight counts and the bytes that follow from them."""

    family: str
    num_base: int
    num_trainable: int
    share: float
    """trainable / all weights in training (base and adapter), 0 to 1"""
    final_bytes: int
    """what the run hands over: the adapter, or the model, in float32"""
    checkpoint_bytes: int
    run_bytes: int
    """free disk that the run folder needs"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What is known before the run. `None` where a reason stands in `unknown`."""

    recipe: Recipe
    world_size: int
    micro_batch: int
    accumulation: int
    num_rows: int | None
    plan: RunPlan | None
    weights: Weights | None
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def preview_run(recipe: Recipe, *, world_size: int = 1, num_rows: int | None = None) -> Preview:
    """Everything that follows from the recipe; `num_rows` is the number of training rows where no file tells it.

    RecipeError when the batch cannot be cut for `world_size`, a target is no layer, or the model is not Llama-shaped.
    """
    micro_batch = fixed_micro_batch(recipe.batch, world_size)
    accumulation = derive_accumulation(recipe.batch, world_size, micro_batch)
    unknown: list[str] = []
    if num_rows is None:
        num_rows = count_all(recipe, unknown)
    counts_packs = recipe.batch.unit == "packs"
    if counts_packs:
        unknown.append("steps: the number of packs is known once the rows are tokenized: run whet prepare")
    has_count = num_rows is not None and not counts_packs
    plan = resolve(recipe, world_size=world_size, num_samples=num_rows) if num_rows and has_count else None
    weights, notes = _weigh(recipe, unknown)
    if recipe.train.fit_seconds is not None:
        unknown.append(
            "steps: measured and fitted to the time budget when the run starts; the number shown is the most"
        )
    if recipe.batch.micro_size == "auto":
        notes.append("the micro-batch is chosen from the free memory when the run begins; the number shown is a guess")
    if plan is not None:
        notes.append(f"rows longer than {recipe.data.max_length:,} tokens count here and may be dropped later")
    return Preview(
        recipe=recipe,
        world_size=world_size,
        micro_batch=micro_batch,
        accumulation=accumulation,
        num_rows=num_rows,
        plan=plan,
        weights=weights,
        unknown=tuple(unknown),
        notes=tuple(notes),
    )


def count_all(recipe: Recipe, unknown: list[str]) -> int | None:
    counts: list[int] = []
    for source in recipe.data.train:
        counted = count_rows(source)
        if isinstance(counted, int):
            counts.append(counted)
        else:
            unknown.append(f"number of rows of {source.source}: {counted}: pass --rows")
    return sum(counts) if len(counts) == len(recipe.data.train) else None


def count_rows(source: Source) -> int | str:
    """Rows that a source gives, or the reason why that is not known without reading it."""
    from whet.data.datasets import known_rows

    if source_kind(source) == "generated":
        return source.rows or "the recipe does not say how many to generate"
    known = known_rows(source)
    if known is not None:
        return num_rows_taken(source, known)
    file = Path(source.source)
    if source_kind(source) == "file" and not file.is_file():
        return "there is no such file"
    if file.suffix.lower() != ".jsonl":
        return "unknown until the rows are read"
    with file.open("rb") as lines:
        num_rows = sum(1 for line in lines if line.strip())
    return num_rows_taken(source, _rows_of_split(source, file, num_rows))


def _rows_of_split(source: Source, file: Path, num_rows: int) -> int:
    """Rows left where the split rule of the file's dataset takes a part of them; a file that cannot be read yet
    is the run's business."""
    from whet.data.datasets import part_size
    from whet.data.files import read_rows
    from whet.data.formats import NUM_ROWS_TO_DETECT, detect_format

    stretch = parse_split(source.split)
    name: str = source.format
    if name == "auto":
        try:
            name = detect_format(
                list(islice(read_rows(file, source.source), NUM_ROWS_TO_DETECT)), source.source, fields=source.fields
            )
        except WhetError:
            return num_rows
    return num_rows if stretch is None else part_size(name, stretch.name, num_rows)


def _weigh(recipe: Recipe, unknown: list[str]) -> tuple[Weights | None, list[str]]:
    shape = find_shape(recipe.model.id)
    if shape is None:
        unknown.append(
            f"weights and disk: the shape of {recipe.model.id} is unknown until its config.json is read from the hub"
        )
        return None, []
    method, num_base = recipe.adapter.method, num_parameters(shape)
    is_adapter = method != "none"
    trainable = num_adapter_parameters(shape, recipe.adapter)[0] if is_adapter else num_base
    need = disk_need(recipe, shape)
    notes = []
    if recipe.data.max_length > shape.max_positions:
        notes.append(
            f"data.max_length {recipe.data.max_length:,} is more than the {shape.max_positions:,} positions "
            f"that {recipe.model.id} was made for"
        )
    weights = Weights(
        family=shape.family,
        num_base=num_base,
        num_trainable=trainable,
        share=trainable / (num_base + trainable) if is_adapter else 1.0,
        final_bytes=need.final_bytes,
        checkpoint_bytes=need.checkpoint_bytes,
        run_bytes=need.run_bytes,
    )
    return weights, notes


def preview_lines(preview: Preview) -> Iterator[tuple[str, str]]:
    """(label, value) for people, in reading order; unknown numbers say so in their place."""
    recipe, plan, weights = preview.recipe, preview.plan, preview.weights
    batch = recipe.batch
    yield "run", recipe.name
    for sentence in explain_recipe(recipe):
        yield "", sentence
    yield (
        f"{batch.unit} per step",
        f"{batch.global_size} = {preview.micro_batch} micro-batch x {preview.accumulation} accumulation "
        f"x {_counted(preview.world_size, 'process', 'processes')}",
    )
    yield "training rows", "unknown" if preview.num_rows is None else f"{preview.num_rows:,}"
    yield from _step_lines(recipe, plan)
    if weights is None:
        yield "trainable weights", "unknown"
        yield "disk", "unknown"
    else:
        what = "model files" if recipe.adapter.method == "none" else "adapter file"
        yield "base weights", f"{weights.num_base:,} ({weights.family})"
        yield "trainable weights", f"{weights.num_trainable:,} ({100 * weights.share:.4g} % of the weights in training)"
        yield what, f"{size(weights.final_bytes)}, float32"
        yield "one checkpoint", size(weights.checkpoint_bytes)
        kept = _counted(recipe.train.keep, "checkpoint", "checkpoints")
        yield "disk", f"{size(weights.run_bytes)}: {kept}, the best, the result and 10 % slack"
    for note in preview.notes:
        yield "note", note
    for reason in preview.unknown:
        yield "unknown", reason


def _step_lines(recipe: Recipe, plan: RunPlan | None) -> Iterator[tuple[str, str]]:
    if plan is None:
        total = recipe.train.max_steps
        steps = "unknown" if total is None else f"{total:,}"
        known_warmup = recipe.optim.warmup >= 1 or total is not None
        warmup = f"{warmup_steps(recipe.optim.warmup, total or 0):,}" if known_warmup else "unknown"
        yield "steps", steps
        yield "warm-up steps", warmup
        return
    most = "at most " if recipe.train.fit_seconds is not None else ""
    yield (
        "steps",
        f"{most}{plan.total_steps:,} ({_counted(plan.epochs, 'epoch', 'epochs')} of {plan.steps_per_epoch:,})",
    )
    yield "warm-up steps", f"{most}{plan.warmup_steps:,}"
    yield "checkpoint every", f"{plan.save_every:,} steps and at epoch ends"
    yield "validation loss", f"every {plan.eval_every:,} steps" if plan.eval_every else "none: no data.validation"


def _counted(number: float, one: str, many: str) -> str:
    return f"{number:.4g} {one if number == 1 else many}"


def size(num_bytes: int) -> str:
    """`27.26 MB (26.00 MiB)`; GB and GiB from 1 GB on."""
    power, names = (3, ("GB", "GiB")) if num_bytes >= 10**9 else (2, ("MB", "MiB"))
    return f"{num_bytes / 1000**power:,.2f} {names[0]} ({num_bytes / 1024**power:,.2f} {names[1]})"


def preview_json(preview: Preview) -> dict[str, Any]:
    """The same numbers for programs; unknown ones are null."""
    warmup = preview.recipe.optim.warmup
    total = preview.plan.total_steps if preview.plan else preview.recipe.train.max_steps
    return {
        "name": preview.recipe.name,
        "model": preview.recipe.model.id,
        "global_batch": preview.recipe.batch.global_size,
        "micro_batch": preview.micro_batch,
        "accumulation": preview.accumulation,
        "world_size": preview.world_size,
        "num_rows": preview.num_rows,
        "total_steps": total,
        "warmup_steps": None if total is None and warmup < 1 else warmup_steps(warmup, total or 0),
        "plan": dataclasses.asdict(preview.plan) if preview.plan else None,
        "weights": dataclasses.asdict(preview.weights) if preview.weights else None,
        "unknown": list(preview.unknown),
        "notes": list(preview.notes),
    }
