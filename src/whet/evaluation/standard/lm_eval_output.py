"""The files that lm-eval leaves (results_*.json, samples_TASK_*.jsonl) -> what was measured, with a score per row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whet.errors import DataError
from whet.evaluation.standard.outcome import Measured, RowScore
from whet.evaluation.standard.read_json import finite_number, of_known_form, parse_object

_UNITS = {
    "acc": "share of rows",
    "acc_norm": "share of rows",
    "exact_match": "share of rows",
    "em": "share of rows",
    "f1": "share",
    "perplexity": "perplexity",
    "word_perplexity": "perplexity per word",
    "byte_perplexity": "perplexity per byte",
    "bits_per_byte": "bits per byte",
}
_MEND = "remove that folder and evaluate again; if it comes back, this version of lm-eval writes another form"


def read_output(folder: Path) -> list[Measured]:
    """Everything that one run of lm-eval into `folder` measured; DataError where its files are not as expected."""
    with of_known_form(folder, mend=_MEND):
        return _read_output(folder)


def _read_output(folder: Path) -> list[Measured]:
    found = sorted(folder.rglob("results_*.json"))
    if not found:
        raise DataError("lm-eval left no results", where=str(folder), mend=_MEND)
    document = parse_object(found[-1].read_text(encoding="utf-8"), where=str(found[-1]), mend=_MEND)
    results = document.get("results")
    if not isinstance(results, dict) or not all(isinstance(values, dict) for values in results.values()):
        raise DataError("`results` is missing or of another form", where=str(found[-1]), mend=_MEND)
    measured = []
    for task, values in results.items():
        samples = _read_samples(found[-1].parent, task)
        for key, value in values.items():
            metric, _, filter_name = key.partition(",")
            # of `exact_match,strict-match`; names without a filter (alias, sample_len) are no metrics
            number = finite_number(value)
            if not filter_name or metric.endswith("_stderr") or number is None:
                continue
            rows = samples.get((metric, filter_name), {})
            measured.append(
                Measured(
                    task=task,
                    metric=metric if filter_name == "none" else f"{metric} ({filter_name})",
                    unit=_UNITS.get(metric, ""),
                    num_rows=len(rows) or _num_rows(document, task),
                    value=number,
                    stderr=finite_number(values.get(f"{metric}_stderr,{filter_name}")),
                    rows=rows,
                )
            )
    return measured


def _num_rows(document: dict[str, Any], task: str) -> int:
    counts = document.get("n-samples", {}).get(task) or {}
    of_group = sum(
        int(document.get("n-samples", {}).get(name, {}).get("effective", 0))
        for name in document.get("group_subtasks", {}).get(task, [])
    )
    return int(counts.get("effective", of_group))


def _read_samples(folder: Path, task: str) -> dict[tuple[str, str], dict[str, RowScore]]:
    """(metric, filter) -> row id -> score. A row that stands there twice has no one score: the metric is left out."""
    scores: dict[tuple[str, str], dict[str, RowScore]] = {}
    unusable: set[tuple[str, str]] = set()
    for path in sorted(folder.glob(f"samples_{task}_[0-9]*.jsonl"))[-1:]:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if not line:
                continue
            row = parse_object(line, where=f"{path}:{number}", mend=_MEND)
            try:
                row_id, filter_name, metrics = str(row["doc_id"]), str(row["filter"]), list(row["metrics"])
                asked = ":".join(str(row[f"{part}_hash"]) for part in ("doc", "prompt", "target"))
            except (KeyError, TypeError) as error:
                raise DataError(f"a sample lacks {error}", where=f"{path}:{number}", mend=_MEND) from error
            for metric in metrics:
                key = (str(metric), filter_name)
                rows = scores.setdefault(key, {})
                score = finite_number(row.get(metric))
                if score is None or row_id in rows:
                    unusable.add(key)
                else:
                    rows[row_id] = RowScore(score=score, asked=asked)
    return {key: rows for key, rows in scores.items() if key not in unusable}
