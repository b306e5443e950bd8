"""What a run measures on held-out rows while it trains, by the names it is logged under, and which of it is best. Pure.

Names stand behind `eval/`. The validation rows give `loss` and `token_accuracy`. A set of `evaluate` with `every` gives
its metrics as `<metric>`, and as `<set>/<metric>` where the short name is another's or there are several such sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.recipe.schema import Evaluate, MetricName, Recipe

PREFIX = "eval/"
VALIDATION: tuple[MetricName, ...] = ("loss", "token_accuracy")
HIGHER_IS_BETTER: dict[MetricName, bool | None] = {
    "answer_accuracy": True, "exact_match": True, "token_f1": True, "rouge1": True, "rouge2": True, "rougeL": True,
    "bleu": True, "semantic_similarity": True, "loss": False, "perplexity": False, "token_accuracy": True,
    "answer_length": None, "stop_rate": True, "seconds_per_example": None,
}  # fmt: skip
"""None: neither direction is a gain."""
_DERIVED: tuple[MetricName, ...] = ("perplexity",)
"""What trackers derive from the validation loss, so that no set may have the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One number that is measured again and again while the model trains."""

    dataset: str | None
    """name of the evaluation set; None: the validation rows"""
    metric: MetricName


def answered_in_training(recipe: Recipe) -> tuple[Evaluate, ...]:
    """The evaluation sets that the model in training answers, main ones first: they get the short names."""
    live = [entry for entry in recipe.evaluate if entry.every is not None]
    return tuple(sorted(live, key=lambda entry: entry.role != "main"))


def metrics_in_training(entry: Evaluate) -> tuple[MetricName, ...]:
    """The metrics of a set's answers: the recipe's, and the stop rate, which comes for nothing."""
    return tuple(dict.fromkeys((*entry.metrics, "stop_rate")))


def measured_names(recipe: Recipe) -> dict[str, Measured]:
    """Name (without `eval/`) -> what it is, of everything that is measured while the model trains."""
    found: dict[str, Measured] = {}
    if recipe.data.validation:
        found |= {metric: Measured(dataset=None, metric=metric) for metric in VALIDATION}
    reserved = _DERIVED if recipe.data.validation else ()
    live = answered_in_training(recipe)
    for entry in live:
        for metric in metrics_in_training(entry):
            what = Measured(dataset=entry.name, metric=metric)
            is_free = metric not in found and metric not in reserved
            if is_free:
                found[metric] = what
            if not is_free or len(live) > 1:
                found[f"{entry.name}/{metric}"] = what
    return found


def best_name(recipe: Recipe) -> str | None:
    """The name (without `eval/`) of what decides which checkpoint is best; None where nothing measures it."""
    names = measured_names(recipe)
    wanted = recipe.train.best_metric.removeprefix(PREFIX)
    if wanted in names:
        return wanted
    return next((name for name, what in names.items() if f"{what.dataset}/{what.metric}" == wanted), None)


def best_is_higher(recipe: Recipe) -> bool:
    """Whether a higher value of `train.best_metric` is better."""
    if recipe.train.best_direction != "auto":
        return recipe.train.best_direction == "higher"
    name = best_name(recipe)
    return bool(name is not None and HIGHER_IS_BETTER[measured_names(recipe)[name].metric])


def chosen_on_verdict_rows(recipe: Recipe) -> str | None:
    """The main evaluation set whose rows choose the final weights too; None where the verdict's rows choose nothing."""
    name, train = best_name(recipe), recipe.train
    if name is None or (train.final == "last" and train.patience is None):
        return None
    dataset = measured_names(recipe)[name].dataset
    return next((entry.name for entry in recipe.evaluate if entry.name == dataset and entry.role == "main"), None)


def listed(names: Sequence[str]) -> str:
    """`eval/loss, eval/stop_rate`"""
    return ", ".join(f"{PREFIX}{name}" for name in names)


def shown_once(values: Mapping[str, float]) -> dict[str, float]:
    """What was measured after one step, without the short names of numbers that stand there by their set's name too.

    `answer_accuracy` and `gsm8k/answer_accuracy` of the first of several sets are one curve: programs may ask for
    either, people are shown one.
    """
    long_names = {(name.rpartition("/")[2], value) for name, value in values.items() if "/" in name}
    return {name: value for name, value in values.items() if "/" in name or (name, value) not in long_names}
