"""Combinations of values that are each fine but cannot be run together. Pure: a recipe in, findings out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from whet.recipe.answering_checks import decoding_is_meant, metrics_are_a_list
from whet.recipe.cadence import acts_at_all
from whet.recipe.fields import field_infos
from whet.recipe.measuring_checks import best_is_measured, rows_in_training
from whet.recipe.name_checks import names_are_plain
from whet.recipe.problems import Finding, Path
from whet.recipe.prompts import PROMPTS, QUESTION, prompt_text
from whet.recipe.schema import STARTS_INSIDE_BASE, Adapter, Callback, Recipe, Source
from whet.recipe.sharding_checks import parallel_is_meant
from whet.recipe.splits import parse_split, share_rows, source_kind
from whet.recipe.tensor_checks import layers_can_be_shared

_SEARCH = 10_000
"""How far from a wish a divisor is looked for, so that an absurd batch size is answered at once too."""


def find_problems(recipe: Recipe) -> list[Finding]:
    """Every impossible combination, in the order of `CHECKS`."""
    return [finding for check in CHECKS for finding in check(recipe)]


def nearest_multiples(number: int, unit: int) -> list[int]:
    """The multiples of `unit` next to `number`, below and above, without 0."""
    below = number // unit * unit
    return [n for n in (below, below + unit) if n > 0]


def nearest_divisors(number: int, wish: int) -> list[int]:
    """The divisors of `number` next to `wish`, below and above; 1 and `number` where none is near."""
    wish = min(wish, number)
    below = range(wish, max(0, wish - _SEARCH), -1)
    above = range(wish + 1, min(number, wish + _SEARCH))
    found = [next((d for d in below if number % d == 0), 1)]
    return found if wish == number else [*found, next((d for d in above if number % d == 0), number)]


def either(numbers: Sequence[int]) -> str:
    """`12 or 16`"""
    return " or ".join(str(number) for number in numbers)


def _batch_divides(recipe: Recipe) -> Iterator[Finding]:
    whole, micro = recipe.batch.global_size, recipe.batch.micro_size
    if micro != "auto" and whole % micro:
        yield Finding(
            (("batch", "global_size"), ("batch", "micro_size")),
            f"must be a multiple of batch.micro_size (found {whole} and {micro}); "
            f"set batch.global_size to {either(nearest_multiples(whole, micro))}, "
            f"or batch.micro_size to {either(nearest_divisors(whole, micro))}",
        )


def _one_length(recipe: Recipe) -> Iterator[Finding]:
    if recipe.train.max_steps is not None and recipe.train.fit_seconds is not None:
        yield Finding(
            (("train", "fit_seconds"), ("train", "max_steps")),
            "cannot be set together with train.max_steps: keep one of them, or set the other to null",
        )


def _whole_warmup(recipe: Recipe) -> Iterator[Finding]:
    warmup, limit = recipe.optim.warmup, recipe.train.max_steps
    if warmup >= 1 and not float(warmup).is_integer():
        yield Finding(
            (("optim", "warmup"),),
            f"from 1 on is a number of steps and must be whole (found {warmup:g}); a share of the run is below 1",
        )
    elif limit is not None and warmup > limit:
        yield Finding(
            (("optim", "warmup"), ("train", "max_steps")),
            f"is longer than the run (found {warmup:g} steps, train.max_steps {limit}); a share of the run is below 1",
        )


def _adapter_off(recipe: Recipe) -> Iterator[Finding]:
    if recipe.adapter.method != "none":
        return
    for key, info in field_infos(Adapter).items():
        value = getattr(recipe.adapter, key)
        if key != "method" and value != info.get_default(call_default_factory=True, validated_data={}):
            path: Path = ("adapter", key)
            yield Finding(
                (path, ("adapter", "method")), f"does nothing with adapter.method none (found {value}): remove it"
            )


def _adapter_targets(recipe: Recipe) -> Iterator[Finding]:
    targets = recipe.adapter.targets
    path: Path = ("adapter", "targets")
    if not targets:
        yield Finding((path,), "names no module; write all-linear or a list such as [q_proj, v_proj]")
    elif targets != "all-linear":
        for name in _doubles(targets):
            yield Finding((path,), f"names {name} twice")


def _adapter_start(recipe: Recipe) -> Iterator[Finding]:
    adapter = recipe.adapter
    path: Path = ("adapter", "init")
    if adapter.method == "dora" and adapter.init in STARTS_INSIDE_BASE:
        yield Finding(
            (path, ("adapter", "method")),
            f"{adapter.init} takes its start out of the base, but dora measures the lengths of the whole base: "
            "leave one of them out",
        )
    if recipe.model.quantize != "none" and adapter.init in (*STARTS_INSIDE_BASE, "orthogonal"):
        yield Finding(
            (path, ("model", "quantize")),
            f"{adapter.init} needs the base weights that model.quantize {recipe.model.quantize} rounds: "
            "leave one of them out",
        )
    odd = [rank for rank in (adapter.rank, *adapter.ranks.values()) if rank % 2]
    if adapter.init == "orthogonal" and odd:
        yield Finding((("adapter", "rank"), path), f"must be even with adapter.init orthogonal (found {odd[0]})")


def _quantized_base_is_frozen(recipe: Recipe) -> Iterator[Finding]:
    kind, method = recipe.model.quantize, recipe.adapter.method
    path: Path = ("model", "quantize")
    if kind != "none" and method == "none":
        yield Finding((path, ("adapter", "method")), f"{kind} rounds the weights that adapter.method none would train")
    elif kind in ("int8", "fp8") and method == "dora":
        yield Finding(
            (path, ("adapter", "method")),
            f"{kind} hides the lengths of the weights that dora measures: use nf4, or lora",
        )


def _loader_brings_whole_weights(recipe: Recipe) -> Iterator[Finding]:
    if recipe.model.loader != "transformers" and recipe.model.quantize != "none":
        yield Finding(
            (("model", "loader"), ("model", "quantize")),
            f"{recipe.model.loader} brings whole weights, not {recipe.model.quantize}: leave one of them out",
        )


def _optimizer_is_meant(recipe: Recipe) -> Iterator[Finding]:
    name, master, dtype = recipe.optim.name, recipe.optim.master, recipe.model.dtype
    path: Path = ("optim", "master")
    if master != "none" and recipe.adapter.method != "none":
        yield Finding(
            (path, ("adapter", "method")), "does nothing with an adapter, whose weights are float32: remove it"
        )
    elif master != "none" and name == "adamw_8bit":
        yield Finding((path, ("optim", "name")), "adamw_8bit keeps no masters: leave one of them out")
    elif master != "none" and dtype in ("float32", "float64"):
        yield Finding((path, ("model", "dtype")), f"does nothing with model.dtype {dtype}: remove it")
    if name == "adamw_8bit" and recipe.callbacks:
        yield Finding(
            (("optim", "name"), ("callbacks",)), "spectral maps moments, which adamw_8bit keeps in codes: use adamw"
        )


def _adapter_places(recipe: Recipe) -> Iterator[Finding]:
    adapter = recipe.adapter
    if adapter.targets != "all-linear":
        for name in adapter.ranks:
            if name not in adapter.targets:
                yield Finding(
                    (("adapter", "ranks", name), ("adapter", "targets")),
                    "is for a layer that gets no adapter: remove it",
                )
    for name in _doubles(adapter.also_train):
        yield Finding((("adapter", "also_train"),), f"names {name} twice")


def _has_training_rows(recipe: Recipe) -> Iterator[Finding]:
    if not recipe.data.train:
        yield Finding((("data", "train"),), "needs at least one source of rows, e.g. `- source: rows.jsonl`")


def _sources_make_sense(recipe: Recipe) -> Iterator[Finding]:
    for path, source in all_sources(recipe):
        yield from _source_settings(path, source)


def _source_settings(path: Path, source: Source) -> Iterator[Finding]:
    kind = source_kind(source)
    stretch = parse_split(source.split)
    split: Path = (*path, "split")
    if stretch is None:
        yield Finding((split,), f"must be a name, or a name and a slice such as train[:500] (found {source.split})")
    elif stretch.stop is not None and stretch.stop <= stretch.start:
        yield Finding((split,), f"names no row: the slice ends where it starts (found {source.split})")
    elif kind == "generated" and stretch.name not in ("train", "test"):
        yield Finding((split,), f"of generated problems is train or test (found {source.split})")
    if kind == "generated" and source.rows is None:
        yield Finding(((*path, "rows"), (*path, "source")), "is needed: how many problems to generate")
    if kind != "generated" and source.options:
        yield Finding(((*path, "options"), (*path, "source")), "are for generated problems (reasoning-gym:) only")
    if kind == "generated":
        for key, default in (("format", "auto"), ("fields", {})):
            if getattr(source, key) != default:
                yield Finding(((*path, key), (*path, "source")), "does nothing for generated problems: remove it")
    if kind != "hub":
        for key in ("config", "revision", "stream"):
            if getattr(source, key):
                yield Finding(((*path, key), (*path, "source")), f"is for hub datasets only (found {source.source})")
    if len(set(source.fields.values())) < len(source.fields):
        yield Finding(((*path, "fields"),), "names one key of the rows twice")
    if source.format == "text" and (source.system is not None or source.instruction is not None):
        added: Path = (*path, "system" if source.system is not None else "instruction")
        yield Finding((added, (*path, "format")), "does nothing for plain text, which has no question: remove it")


def _held_out_is_disjoint(recipe: Recipe) -> Iterator[Finding]:
    train = [(path, source) for path, source in all_sources(recipe) if path[:2] == ("data", "train")]
    for path, source in all_sources(recipe):
        if path[:2] == ("data", "train"):
            continue
        for train_path, train_source in train:
            if share_rows(train_source, source):
                where = ".".join(str(part) for part in train_path)
                yield Finding(
                    (path, train_path),
                    f"shares rows with {where} ({source.source}, {train_source.split} and {source.split}): "
                    "use another split, or slices that do not overlap such as train[500:] and train[:500]",
                )


def _weights_on_all_or_none(recipe: Recipe) -> Iterator[Finding]:
    weights = [source.weight for source in recipe.data.train]
    if None in weights and any(weight is not None for weight in weights):
        path: Path = ("data", "train", weights.index(None), "weight")
        yield Finding((path, ("data", "train")), "is missing while other sources have one: weigh all of them or none")
    if recipe.batch.unit == "packs" and any(weight is not None for weight in weights):
        yield Finding(
            (("batch", "unit"), ("data", "train")),
            "packs cannot be mixed by weight, because their number would differ between epochs: use samples",
        )
    for path, source in all_sources(recipe):
        if path[:2] != ("data", "train") and source.weight is not None:
            yield Finding(((*path, "weight"),), "does nothing outside data.train: remove it")


def _prompt_fits_template(recipe: Recipe) -> Iterator[Finding]:
    data = recipe.data
    if data.template == "chat" and data.prompt is not None:
        yield Finding(
            (("data", "prompt"), ("data", "template")),
            "does nothing with data.template chat: set data.template: plain, or use `instruction` and `system`",
        )
    elif data.prompt is not None and prompt_text(data.prompt).count(QUESTION) != 1:
        yield Finding(
            (("data", "prompt"),),
            f"must be one of {', '.join(PROMPTS)}, or a text with one {QUESTION} (found {data.prompt!r})",
        )
    for key in ("chat_template", "reasoning"):
        if data.template == "plain" and getattr(data, key) not in ("own", None):
            yield Finding((("data", key), ("data", "template")), "does nothing with data.template plain: remove it")


def _max_dropped_is_a_limit(recipe: Recipe) -> Iterator[Finding]:
    if dropped_limit(recipe.data.max_dropped, 100) is None:
        yield Finding(
            (("data", "max_dropped"),),
            f"must be a share such as 1% or a number of rows such as 20 (found {recipe.data.max_dropped})",
        )


def dropped_limit(max_dropped: str, num_rows: int) -> float | None:
    """Most rows of `num_rows` that may be dropped; None when the text is no limit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", max_dropped.strip())
    if match is None or (match[2] and float(match[1]) > 100) or (not match[2] and "." in match[1]):
        return None
    return float(match[1]) / 100 * num_rows if match[2] else float(match[1])


def _evaluation_names(recipe: Recipe) -> Iterator[Finding]:
    for index, evaluate in enumerate(recipe.evaluate):
        path: Path = ("evaluate", index, "name")
        if evaluate.name in [other.name for other in recipe.evaluate[:index]]:
            yield Finding(
                (path, ("evaluate",)), f"is used twice (found {evaluate.name}): reports tell sets apart by it"
            )
        elif not evaluate.name.strip(" .") or any(sign in evaluate.name for sign in "/\\\0"):
            yield Finding((path,), f"must be usable as a file name (found {evaluate.name!r})")
    if recipe.evaluate and not any(evaluate.role == "main" for evaluate in recipe.evaluate):
        yield Finding((("evaluate",),), "has no main set for the verdict to rest on: set role: main on one")


def _names_are_set(recipe: Recipe) -> Iterator[Finding]:
    for key in ("name", "output"):
        if not getattr(recipe, key).strip():
            yield Finding(((key,),), "is empty")
    if not recipe.model.id.strip():
        yield Finding((("model", "id"),), "is empty")


def _cadence_has_rows(recipe: Recipe) -> Iterator[Finding]:
    if recipe.train.eval_every is not None and not recipe.data.validation:
        yield Finding(
            (("train", "eval_every"), ("data", "validation")),
            "does nothing without data.validation: name validation rows or remove it",
        )


def _lists_without_doubles(recipe: Recipe) -> Iterator[Finding]:
    for name in _doubles([callback.name for callback in recipe.callbacks]):
        yield Finding((("callbacks",),), f"names {name} twice")
    for name in _doubles(recipe.tracking):
        yield Finding((("tracking",),), f"names {name} twice")


def _spectral_is_sound(recipe: Recipe) -> Iterator[Finding]:
    for index, callback in enumerate(recipe.callbacks):
        path: Path = ("callbacks", index)
        if recipe.adapter.method == "none":
            yield Finding((path, ("adapter", "method")), "does nothing with adapter.method none: remove it")
        if callback.mode == "exact" and callback.balance != Callback(name="spectral").balance:
            yield Finding(((*path, "balance"), (*path, "mode")), "does nothing with mode exact: remove it")
        if callback.mode == "balanced":
            yield from _balanced_is_sound((*path, "mode"), recipe.adapter)
        steps = recipe.train.max_steps
        if steps is not None and not acts_at_all(callback, total_steps=steps):
            yield Finding(
                (path, ("train", "max_steps")),
                f"refactors at none of the {steps} steps: change every, warmup_steps or cooldown_steps",
            )


def _balanced_is_sound(path: Path, adapter: Adapter) -> Iterator[Finding]:
    if adapter.init in STARTS_INSIDE_BASE:
        yield Finding(
            (path, ("adapter", "init")),
            f"balanced evens out the singular values of BA, and with adapter.init {adapter.init} BA holds parts of "
            "the base weights: the model would be destroyed (docs/spectral.md); set mode: exact, or init: default",
        )
    if adapter.method == "dora":
        yield Finding(
            (path, ("adapter", "method")),
            "balanced moves BA, and adapter.method dora has learnt the length of W + BA's columns as it was: "
            "set mode: exact, or method: lora",
        )


def all_sources(recipe: Recipe) -> Iterator[tuple[Path, Source]]:
    """Every source of rows with its path: training, validation, evaluation."""
    for index, source in enumerate(recipe.data.train):
        yield ("data", "train", index), source
    for index, source in enumerate(recipe.data.validation):
        yield ("data", "validation", index), source
    for index, evaluate in enumerate(recipe.evaluate):
        yield ("evaluate", index, "source"), evaluate.source


def _doubles(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


CHECKS: tuple[Callable[[Recipe], Iterator[Finding]], ...] = (
    _names_are_set,
    names_are_plain,
    _adapter_off,
    _adapter_targets,
    _adapter_start,
    _quantized_base_is_frozen,
    _loader_brings_whole_weights,
    _optimizer_is_meant,
    parallel_is_meant,
    layers_can_be_shared,
    _adapter_places,
    _has_training_rows,
    _sources_make_sense,
    _held_out_is_disjoint,
    _weights_on_all_or_none,
    _prompt_fits_template,
    _max_dropped_is_a_limit,
    _batch_divides,
    _whole_warmup,
    _one_length,
    _cadence_has_rows,
    _evaluation_names,
    decoding_is_meant,
    metrics_are_a_list,
    rows_in_training,
    best_is_measured,
    _lists_without_doubles,
    _spectral_is_sound,
)
