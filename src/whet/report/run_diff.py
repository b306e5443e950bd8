"""Two runs or recipes beside each other: every value that differs, derived ones included, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whet.errors import RecipeError
from whet.recipe import parse_recipe
from whet.recipe.schema import Recipe
from whet.report.run_folder import Evaluation, RunView, read_run_folder

GROUPS = ("recipe", "plan", "data", "model", "environment")
_ABSENT = object()
_OF_SUMMARY = (
    "status", "steps", "last_train_loss", "best_metric", "best_value", "best_step", "seconds", "tokens_per_second",
    "peak_memory_bytes", "num_trainable",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two. Values have dotted names within their group."""

    name: str
    groups: Mapping[str, Mapping[str, Any]]
    """of GROUPS -> name -> value; a recipe alone has `recipe` and what is known of `plan`"""
    results: Mapping[str, Any]
    """what came out; empty for a recipe"""
    problems: tuple[str, ...] = ()

    @property
    def has_run(self) -> bool:
        """Whether this is a run, not a recipe alone."""
        return "environment" in self.groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A value that differs; None may mean that one side does not have it."""

    group: str
    name: str
    first: Any
    second: Any


def side_of_recipe(recipe: Recipe, name: str, plan: Mapping[str, Any]) -> Side:
    """A recipe that need not have run, with what is known of its plan."""
    return Side(name=name, groups={"recipe": dict(_flat(asdict(recipe))), "plan": dict(plan)}, results={})


def side_of_run(folder: Path) -> Side:
    """A run by the files of its folder; StorageError if it is none."""
    view = read_run_folder(folder)
    problems = list(view.problems)
    try:
        recipe = dict(_flat(asdict(parse_recipe(view.recipe, f"{folder}/recipe.yaml"))))
    except RecipeError as error:
        problems.append(str(error))
        recipe = {}
    sets = {name: value for name, value in view.data.items() if name != "notes"}
    groups = {
        "recipe": recipe,
        "plan": view.plan,
        "data": dict(_flat(sets)),
        "model": {**view.model},
        "environment": view.environment,
    }
    return Side(name=str(folder), groups=groups, results=dict(_results(view)), problems=tuple(problems))


def _results(view: RunView) -> Iterator[tuple[str, Any]]:
    for name in _OF_SUMMARY:
        if view.summary.get(name) is not None:
            yield name, view.summary[name]
    for evaluation in view.evaluations:
        yield from _of_set(evaluation)


def _of_set(evaluation: Evaluation) -> Iterator[tuple[str, Any]]:
    comparison = evaluation.comparison
    if comparison is None:
        return
    yield f"{evaluation.dataset}.rows", comparison.num_rows
    for metric in comparison.metrics:
        yield f"{evaluation.dataset}.{metric.name}.base", metric.base_mean
        yield f"{evaluation.dataset}.{metric.name}.tuned", metric.tuned_mean
    yield f"{evaluation.dataset}.verdict", comparison.verdict


def find_differences(first: Side, second: Side) -> tuple[Difference, ...]:
    """Values that are not equal, group by group, in the order in which the sides have them.

    Where a recipe has not run, only what is known of its plan is compared.
    """
    return tuple(
        Difference(group=group, name=name, first=_plain(a), second=_plain(b))
        for group in GROUPS
        for name in _names(group, first, second)
        if (a := first.groups[group].get(name, _ABSENT)) != (b := second.groups[group].get(name, _ABSENT))
    )


def _names(group: str, first: Side, second: Side) -> list[str]:
    if group not in first.groups or group not in second.groups:
        return []
    names = [*{**first.groups[group], **second.groups[group]}]
    if group == "plan" and not (first.has_run and second.has_run):
        return [name for name in names if name in first.groups[group] and name in second.groups[group]]
    return names


def _plain(value: Any) -> Any:
    return None if value is _ABSENT else value


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name -> plain value; a list of plain values is one value."""
    items: Any = None
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    if items is None:
        yield prefix, list(value) if isinstance(value, tuple) else value
        return
    for key, inner in items:
        yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
