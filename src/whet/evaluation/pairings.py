"""Run folders -> the two sides of each evaluation set: base against tuned, run against run, or means over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, StorageError
from whet.evaluation.sides import Side
from whet.evaluation.store import list_datasets, read_eval_report
from whet.recipe import load_recipe
from whet.recipe.schema import Recipe
from whet.types import EvalReport

_OWN_TO_A_RUN = ("name", "output", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairings:
    """Who is compared with whom."""

    sides: Mapping[str, tuple[Side, Side]]
    """set -> (base or what takes its place, tuned)"""
    notes: tuple[str, ...]
    """sets that not all have, and settings in which runs of one side differ"""
    seed: int
    """draws the resamples: that of the first run's recipe"""


def pair_base_with_runs(runs: Sequence[Path], *, dataset: str | None = None) -> Pairings:
    """The base that all runs share against their tuned models, which count as seeds of one recipe."""
    names, notes = _shared_sets(runs, dataset)
    sides = {
        name: (
            Side(name="base", reports=(_common_base(runs, name),), is_trained=False),
            Side(name="tuned", reports=_tuned(runs, name)),
        )
        for name in names
    }
    recipes = _recipes(runs)
    return Pairings(sides=sides, notes=(*notes, *_unlike_settings(runs, recipes)), seed=recipes[0].seed)


def pair_runs(first: Sequence[Path], second: Sequence[Path], *, dataset: str | None = None) -> Pairings:
    """The tuned models of `first` in base's place against those of `second`; several on a side are its seeds."""
    names, notes = _shared_sets([*first, *second], dataset)
    labels = _labels(first), _labels(second)
    if labels[0] == labels[1]:
        labels = "+".join(map(str, first)), "+".join(map(str, second))
    sides = {
        name: (
            Side(name=labels[0], reports=_tuned(first, name)),
            Side(name=labels[1], reports=_tuned(second, name)),
        )
        for name in names
    }
    recipes = [_recipes(runs) for runs in (first, second)]
    unlike = [note for runs, own in zip((first, second), recipes, strict=True) for note in _unlike_settings(runs, own)]
    return Pairings(sides=sides, notes=(*notes, *unlike), seed=recipes[0][0].seed)


def _shared_sets(runs: Sequence[Path], dataset: str | None) -> tuple[list[str], list[str]]:
    """Sets that every run has answers on (or the one asked for), and a sentence for each that only some have."""
    stored = [list_datasets(run) for run in runs]
    for run, names in zip(runs, stored, strict=True):
        if not names:
            raise StorageError("holds no stored answers", where=str(run), mend=f"whet evaluate {run}")
    shared = [name for name in stored[0] if all(name in names for names in stored)]
    if dataset is not None and dataset not in shared:
        known = f"use --dataset with one of {', '.join(shared)}" if shared else None
        missing = next(run for run, names in zip(runs, stored, strict=True) if dataset not in names)
        raise StorageError(f"holds no answers on {dataset!r}", where=str(missing), mend=known)
    if not shared:
        raise RecipeError(
            "the runs have no evaluation set in common",
            where=", ".join(map(str, runs)),
            mend="evaluate them with the same `evaluate` entries",
        )
    if dataset is not None:
        return [dataset], []
    only_some = sorted({name for names in stored for name in names} - set(shared))
    return shared, [f"{name}: only some of the runs have answers on it, so it is not compared." for name in only_some]


def _tuned(runs: Sequence[Path], dataset: str) -> tuple[EvalReport, ...]:
    return tuple(read_eval_report(run / "evaluations" / dataset, "tuned") for run in runs)


def _common_base(runs: Sequence[Path], dataset: str) -> EvalReport:
    """The base report of the first run; RecipeError where another run started from another base."""
    reports = [read_eval_report(run / "evaluations" / dataset, "base") for run in runs]
    for run, report in zip(runs, reports, strict=True):
        if report.weights != reports[0].weights:
            raise RecipeError(
                f"{run} was tuned from another base than {runs[0]}",
                where=f"{run / 'evaluations' / dataset}",
                mend="compare runs over one base, or two of them with `whet compare A B`",
            )
    return reports[0]


def _labels(runs: Sequence[Path]) -> str:
    names = [run.resolve().name for run in runs]
    return "+".join(names) if len(names) <= 3 else f"{names[0]}+{len(names) - 1} more"


def _recipes(runs: Sequence[Path]) -> list[Recipe]:
    return [load_recipe(run / "recipe.yaml") for run in runs]


def _unlike_settings(runs: Sequence[Path], recipes: Sequence[Recipe]) -> list[str]:
    """What keeps the runs of one side from being seeds of one recipe."""
    if len(runs) < 2:
        return []
    notes = []
    names = ", ".join(run.resolve().name for run in runs)
    if len({recipe.seed for recipe in recipes}) < len(recipes):
        notes.append(f"{names}: not every run has a seed of its own.")
    settings = [dict(_flat(asdict(recipe))) for recipe in recipes]
    unlike = sorted({
        key for each in settings for key in each.keys() | settings[0].keys()
        if each.get(key) != settings[0].get(key) and key not in _OWN_TO_A_RUN
    })  # fmt: skip
    if unlike:
        listed = ", ".join(unlike[:5]) + (f" and {len(unlike) - 5} more" if len(unlike) > 5 else "")
        notes.append(f"{names}: counted as seeds of one recipe, but they also differ in {listed}.")
    return notes


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted key."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _flat(item, f"{place}.{key}" if place else str(key))
    else:
        yield place, value
