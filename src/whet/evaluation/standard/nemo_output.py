"""The files that NeMo Evaluator leaves (BENCHMARK/eval-*.json, results.jsonl) -> what was measured, with row scores."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from whet.errors import DataError, HubError
from whet.evaluation.standard.outcome import Measured, RowScore
from whet.evaluation.standard.read_json import finite_number, of_known_form, parse_object

_MEND = "if it comes back, this version of NeMo Evaluator writes another form"
# means over the rows' rewards: the one for rewards of 0 and 1, the other for any; both written with four decimals
_MEANS = {"pass@1": "share of rows", "mean_reward": "mean reward"}
_ROUNDING = 6e-5


def read_output(folder: Path) -> list[Measured]:
    """Everything that one run into `folder` measured.

    DataError where its files are not as expected; HubError where rows were not answered, which NeMo Evaluator counts
    as wrong answers.
    """
    with of_known_form(folder, mend=_MEND):
        return _read_output(folder)


def _read_output(folder: Path) -> list[Measured]:
    found = sorted(folder.glob("*/eval-*.json"))
    if not found:
        raise DataError("NeMo Evaluator left no results", where=str(folder), mend=_MEND)
    return [measured for path in found for measured in _read_benchmark(path)]


def _read_benchmark(path: Path) -> list[Measured]:
    document = parse_object(path.read_text(encoding="utf-8"), where=str(path), mend=_MEND)
    try:
        name, scores = str(document["benchmark"]["name"]), dict(document["benchmark"]["scores"])
        num_rows = int(document["benchmark"]["samples"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"no scores of a benchmark ({error})", where=str(path), mend=_MEND) from error
    rows = _read_rows(path.with_name("results.jsonl"))
    mean, stderr = _mean_and_error(scores.get("summary"))
    measured = []
    for metric, score in scores.items():
        value = finite_number(score.get("value")) if isinstance(score, dict) else None
        if value is None:
            continue
        is_mean = metric in _MEANS and mean is not None and math.isclose(mean, value, abs_tol=_ROUNDING)
        measured.append(
            Measured(
                task=name,
                metric=metric,
                unit=_MEANS.get(metric, ""),
                num_rows=len(rows) or num_rows,
                value=mean if is_mean and mean is not None else value,
                stderr=stderr if is_mean else None,
                rows=rows if is_mean else {},
            )
        )
    return measured


def _mean_and_error(summary: object) -> tuple[float | None, float | None]:
    """The unrounded mean of the rewards, and its standard error."""
    if not isinstance(summary, dict):
        return None, None
    mean, deviation, num_rows = (finite_number(summary.get(key)) for key in ("mean", "std", "n"))
    return mean, None if deviation is None or not num_rows else deviation / math.sqrt(num_rows)


def _read_rows(path: Path) -> dict[str, RowScore]:
    """By problem; empty where a harness leaves none, or asked a problem more than once."""
    rows: dict[str, RowScore] = {}
    if not path.is_file():
        return rows
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        row = parse_object(line, where=f"{path}:{number}", mend=_MEND)
        details = row.get("scoring_details")
        if isinstance(details, dict) and "error_category" in details:
            raise HubError(
                f"row {row.get('problem_idx')} was not answered ({str(details.get('error'))[:200]}); NeMo Evaluator "
                "counts it as a wrong answer",
                where=f"{path}:{number}",
                mend="see that the server answers, then evaluate again",
            )
        score, problem = finite_number(row.get("reward")), str(row.get("problem_idx"))
        if score is None or "prompt" not in row or problem in rows:
            return {}
        asked = json.dumps([row["prompt"], row.get("expected_answer")])
        rows[problem] = RowScore(score=score, asked=hashlib.sha256(asked.encode()).hexdigest())
    return rows
