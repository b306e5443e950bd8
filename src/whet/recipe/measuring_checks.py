"""Rules about what is measured while a run trains: a best checkpoint needs a number that is there and can be better."""

from __future__ import annotations

from collections.abc import Iterator

from whet.recipe.measured import HIGHER_IS_BETTER, PREFIX, VALIDATION, best_name, listed, measured_names
from whet.recipe.problems import Finding, Path
from whet.recipe.schema import MetricName, Recipe, Train


def rows_in_training(recipe: Recipe) -> Iterator[Finding]:
    """`max_rows` limits answers in training, which only `every` asks for."""
    for index, entry in enumerate(recipe.evaluate):
        path: Path = ("evaluate", index)
        if entry.max_rows is not None and entry.every is None:
            yield Finding(
                ((*path, "max_rows"), (*path, "every")),
                "does nothing without every: set the steps between answers, or source.rows to answer fewer rows",
            )


def best_is_measured(recipe: Recipe) -> Iterator[Finding]:
    """`train.best_metric` is something that the run measures, and has a direction."""
    train, path = recipe.train, ("train", "best_metric")
    measured = measured_names(recipe)
    name = best_name(recipe)
    if name is not None:
        yield from _best_is_a_direction(recipe, measured[name].metric)
        return
    needs = [key for key in ("patience", "final") if getattr(train, key) not in (None, "last")]
    if needs or train.best_metric != Train().best_metric:
        yield Finding(
            (path, *(("train", key) for key in needs)),
            f"{train.best_metric} is never measured: {_what_would_measure(train.best_metric)}; "
            f"this recipe measures {listed(list(measured)) or 'nothing'} while it trains",
        )


def _what_would_measure(best_metric: str) -> str:
    *of_set, metric = best_metric.removeprefix(PREFIX).rsplit("/", 1)
    ways = []
    if metric in VALIDATION and not of_set:
        ways.append("name validation rows in data.validation")
    if metric in HIGHER_IS_BETTER:
        named = f"the set {of_set[0]} of evaluate" if of_set else "a set of evaluate"
        ways.append(f"set every on {named} with {metric} among its metrics")
    return ", or ".join(ways) or f"no measurement has this name (metrics are {', '.join(HIGHER_IS_BETTER)})"


def _best_is_a_direction(recipe: Recipe, metric: MetricName) -> Iterator[Finding]:
    direction, is_higher = recipe.train.best_direction, HIGHER_IS_BETTER[metric]
    paths: tuple[Path, ...] = (("train", "best_direction"), ("train", "best_metric"))
    if metric == "seconds_per_example":
        yield Finding(paths[::-1], "cannot be the clock's: a continued run would find another best checkpoint")
    elif is_higher is None and direction == "auto":
        yield Finding(paths, f"must be said of {metric}, of which neither more nor less is a gain: lower or higher")
    elif is_higher is not None and direction == ("lower" if is_higher else "higher"):
        better = "higher" if is_higher else "lower"
        yield Finding(paths, f"is {direction}, but a {better} {metric} is better: remove it")
