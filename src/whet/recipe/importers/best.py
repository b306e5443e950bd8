"""Which checkpoint another tool keeps as the best, by what, when it stops early, and with which weights it ends."""

from __future__ import annotations

from whet.recipe.importers.sheet import Sheet
from whet.recipe.measured import HIGHER_IS_BETTER, PREFIX
from whet.recipe.schema import MetricName

_METRICS: dict[str, MetricName] = {
    "loss": "loss",
    "token_accuracy": "token_accuracy",
    "mean_token_accuracy": "token_accuracy",
    "answer_accuracy": "answer_accuracy",
}
"""Name in the tool's logs, without `eval_` -> ours."""
_EVERY, _ROWS = 100, 200


def read_best(sheet: Sheet, prefix: str = "") -> None:
    """Hugging Face's names, and those of its early stopping; call it when the rows and the evaluation are known."""
    final, metric = f"{prefix}load_best_model_at_end", f"{prefix}metric_for_best_model"
    word = sheet.text(metric, "loss").removeprefix("eval_")
    name = _METRICS.get(word)
    why_not = _why_not(sheet, word)
    wants_best = sheet.boolean(final)
    if not wants_best:
        sheet.drop(final, "the weights after the last step are kept, as there")
    elif why_not:
        sheet.refuse(final, why_not)
    else:
        sheet.map(final, "train.final", "best")
    patience = next((k for k in ("early_stopping_patience", "early_stopping_steps") if prefix + k in sheet), "")
    for key, whet_key in ((patience, "train.patience"), ("early_stopping_threshold", "train.min_improvement")):
        if not sheet.is_on(prefix + key) or sheet.number(prefix + key, 0) == 0:
            sheet.drop(prefix + key, "not asked for")
        elif why_not:
            sheet.refuse(prefix + key, why_not)
        elif whet_key == "train.patience":
            sheet.map_whole(prefix + key, whet_key, None)
        else:
            sheet.map_number(prefix + key, whet_key, None)
    if why_not:
        take = sheet.refuse if wants_best or name is None else sheet.drop
        take(metric, why_not)
    elif name is not None:
        sheet.map(metric, "train.best_metric", f"{PREFIX}{name}")
        if name == "answer_accuracy":
            _choose_by_answers(sheet)
    _read_direction(sheet, f"{prefix}greater_is_better", name)


def _why_not(sheet: Sheet, word: str) -> str:
    """Why nothing measures the tool's `word` while the recipe trains; empty when something does."""
    name = _METRICS.get(word)
    if name is None:
        return f"{word} is not measured in training: see train.best_metric"
    if name == "answer_accuracy" and "evaluate" not in sheet.tree:
        return "no rows are there to be answered: name some in evaluate, with every"
    if name != "answer_accuracy" and "validation" not in sheet.tree.get("data", {}):
        return "there are no validation rows"
    return ""


def _choose_by_answers(sheet: Sheet) -> None:
    """Some of the rows to be answered choose the checkpoint; the verdict rests on the others."""
    asked = sheet.tree["evaluate"][0]
    source = asked["source"]
    chosen = source | {"split": f"{source['split']}[:{_ROWS}]"}
    sheet.put("evaluate.0.source", source | {"split": f"{source['split']}[{_ROWS}:]"})
    choice = {"name": f"{asked['name']}-choice", "source": chosen, "role": "other", "every": _EVERY}
    for key, value in (asked | choice).items():
        sheet.put(f"evaluate.1.{key}", value)
    sheet.notes.append(
        f"evaluate.1: the first {_ROWS} rows are answered every {_EVERY} steps and choose the checkpoint; "
        "the verdict rests on the others"
    )


def _read_direction(sheet: Sheet, key: str, name: MetricName | None) -> None:
    if not sheet.text(key) or (name is not None and sheet.boolean(key) == HIGHER_IS_BETTER[name]):
        sheet.drop(key, "the direction of a metric is known")
    else:
        sheet.refuse(key, "the direction of a metric is known, and it is the other one")
