"""EvalReport and Comparison <-> files of `<run>/evaluations/<dataset>/`.

`base.jsonl` and `tuned.jsonl` hold one line per row with its scores, `*.summary.json` what all rows share and the means
of the metrics, `comparison.json` the verdict. The report of the model called `base` is stored as base, any other as
tuned. Times stand in the summary only: the same model answers the same rows with the same lines, however often it was
interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from whet import atomic
from whet.errors import StorageError
from whet.evaluation.metrics import METRICS, SECONDS, mean
from whet.types import Comparison, EvalReport, Generation, Judgement, SetRole
from whet.verdict import from_document, to_document

_SUMMARY_FIELDS = {
    "model": str,
    "dataset": str,
    "decoding": str,
    "rows_fingerprint": str,
    "seconds": (int, float),
    "weights": str,
    "num_rows": int,
    "code": str,
    "num_rows_of_set": int,
    "role": str,
    "seen_in_training": list,
    "figures": dict,
    "metrics": dict,
    "row_seconds": list,
}
# files of earlier versions do not say these
_SUMMARY_DEFAULTS: dict[str, Any] = {
    "code": "", "num_rows_of_set": 0, "role": "main", "seen_in_training": [], "figures": {}, "metrics": {},
    "row_seconds": [],
}  # fmt: skip
_NOT_OF_THE_REPORT = ("num_rows", "metrics", "row_seconds")
_EXTRA_FIELDS = {"scores": dict, "category": str}
_EXTRA_DEFAULTS: dict[str, Any] = {"scores": {}, "category": ""}
_ROW_FIELDS = {
    "id": str,
    "prompt": str,
    "text": str,
    "stopped": str,
    "num_new_tokens": int,
    "extracted": str,
    "golds": list,
    "is_correct": bool,
    "has_format": bool,
}
_ENDS = ("stop_token", "stop_string", "length")


def list_datasets(run_folder: Path) -> list[str]:
    """Names of the datasets with at least one stored report, sorted."""
    return sorted({path.parent.name for path in (run_folder / "evaluations").glob("*/*.summary.json")})


def write_eval_report(folder: Path, report: EvalReport) -> None:
    """Write `<base|tuned>.jsonl`, then `.summary.json`: where the summary exists, the rows are whole.

    A comparison made from the replaced rows is removed.
    """
    stem = _stem(report.model)
    rows = [
        row_document(generation, judgement) | _scores_document(report, number)
        for number, (generation, judgement) in enumerate(zip(report.generations, report.judgements, strict=True))
    ]
    summary = {name: getattr(report, name) for name in _SUMMARY_FIELDS if name not in _NOT_OF_THE_REPORT}
    summary |= {
        "num_rows": len(rows),
        "accuracy": report.accuracy,
        "metrics": {name: _metric_document(name, scores) for name, scores in report.scores.items()},
    }
    seconds = json.dumps([generation.seconds for generation in report.generations])
    atomic.remove(folder / "comparison.json")
    atomic.remove(folder / f"{stem}.summary.json")
    atomic.write_text(folder / f"{stem}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    # on one line, however many rows there are
    text = json.dumps(summary, indent=2).removesuffix("\n}") + f',\n  "row_seconds": {seconds}\n}}\n'
    atomic.write_text(folder / f"{stem}.summary.json", text)


def _scores_document(report: EvalReport, number: int) -> dict[str, Any]:
    """What a row's line says besides answer and judgement."""
    scores = {name: scores[number] for name, scores in report.scores.items() if name != SECONDS}
    category = report.categories[number] if report.categories else ""
    return ({"category": category} if category else {}) | ({"scores": scores} if scores else {})


def _metric_document(name: str, scores: Sequence[float | None]) -> dict[str, Any]:
    num_scored = sum(score is not None for score in scores)
    return {"mean": mean(scores), "unit": METRICS[name].unit, "num_rows": num_scored}


def row_document(generation: Generation, judgement: Judgement) -> dict[str, Any]:
    """One line of `<base|tuned>.jsonl`."""
    return {
        "id": generation.example_id,
        "prompt": generation.prompt,
        "text": generation.text,
        "stopped": generation.stopped,
        "num_new_tokens": generation.num_new_tokens,
        "extracted": judgement.extracted,
        "golds": list(judgement.golds),
        "is_correct": judgement.is_correct,
        "has_format": judgement.has_format,
    }


def read_eval_report(folder: Path, model: str) -> EvalReport:
    """Read what `write_eval_report` wrote for `base` or `tuned`; StorageError names the malformed line."""
    stem = _stem(model)
    summary_path, rows_path = folder / f"{stem}.summary.json", folder / f"{stem}.jsonl"
    summary = _parse(_read(summary_path), str(summary_path), _SUMMARY_FIELDS, _SUMMARY_DEFAULTS)
    _check_numbers(summary["figures"], f"{summary_path} figures")
    if summary["role"] not in get_args(SetRole):
        raise _broken(str(summary_path), f"role must be one of {', '.join(get_args(SetRole))}")
    lines = _read(rows_path).split("\n")
    if lines[-1] != "":
        raise _broken(f"{rows_path}:{len(lines)}", "the last line is torn")
    num_rows = len(lines) - 1
    if num_rows != summary["num_rows"]:
        raise _broken(str(rows_path), f"{num_rows} rows, but {summary_path.name} says {summary['num_rows']}")
    seconds = _read_seconds(summary, str(summary_path))
    documents, rows = [], []
    for number, line in enumerate(lines[:-1]):
        where = f"{rows_path}:{number + 1}"
        documents.append(_parse(line, where, _ROW_FIELDS | _EXTRA_FIELDS, _EXTRA_DEFAULTS))
        _check_numbers(documents[-1]["scores"], f"{where} scores")
        rows.append(_read_row(documents[-1], where, seconds[number]))
    categories = tuple(document["category"] for document in documents)
    return EvalReport(
        **{name: summary[name] for name in _SUMMARY_FIELDS if name not in (*_NOT_OF_THE_REPORT, "seen_in_training")},
        seen_in_training=tuple(str(id_) for id_ in summary["seen_in_training"]),
        generations=tuple(generation for generation, _ in rows),
        judgements=tuple(judgement for _, judgement in rows),
        scores={
            name: tuple(seconds) if name == SECONDS else tuple(row["scores"].get(name) for row in documents)
            for name in summary["metrics"]
        },
        categories=categories if any(categories) else (),
    )


def _read_seconds(summary: dict[str, Any], where: str) -> list[float]:
    """Seconds of each row; of an earlier version's file each row's share."""
    num_rows, seconds = summary["num_rows"], summary["row_seconds"]
    if not seconds:
        return [summary["seconds"] / max(1, num_rows)] * num_rows
    if len(seconds) != num_rows or not all(type(value) in (int, float) for value in seconds):
        raise _broken(where, "`row_seconds` must hold a number for each row")
    return [float(value) for value in seconds]


def _check_numbers(values: dict[str, Any], where: str) -> None:
    if not all(value is None or type(value) in (int, float) for value in values.values()):
        raise _broken(where, "numbers or null are expected")


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write `comparison.json`; a file that already says the same is left alone."""
    path = folder / "comparison.json"
    text = json.dumps(to_document(comparison), indent=2) + "\n"
    if not path.is_file() or _read(path) != text:
        atomic.write_text(path, text)


def read_comparison(folder: Path) -> Comparison:
    """Read what `write_comparison` wrote; StorageError says what is malformed."""
    path = folder / "comparison.json"
    try:
        return from_document(_parse(_read(path), str(path), {}))
    except ValueError as error:
        raise _broken(str(path), str(error)) from error


def _stem(model: str) -> str:
    return "base" if model == "base" else "tuned"


def parse_row(line: str, where: str, seconds: float) -> tuple[Generation, Judgement]:
    """What `row_document` wrote, `seconds` its share of the time; StorageError names what is malformed."""
    return _read_row(_parse(line, where, _ROW_FIELDS), where, seconds)


def _read_row(row: dict[str, Any], where: str, seconds: float) -> tuple[Generation, Judgement]:
    if row["stopped"] not in _ENDS:
        raise _broken(where, f"stopped must be one of {', '.join(_ENDS)}")
    generation = Generation(
        example_id=row["id"],
        prompt=row["prompt"],
        text=row["text"],
        num_new_tokens=row["num_new_tokens"],
        stopped=row["stopped"],
        seconds=seconds,
    )
    judgement = Judgement(
        example_id=row["id"],
        extracted=row["extracted"],
        golds=tuple(str(gold) for gold in row["golds"]),
        is_correct=row["is_correct"],
        has_format=row["has_format"],
    )
    return generation, judgement


def _parse(text: str, where: str, fields: dict[str, Any], defaults: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant(where))
    except (ValueError, RecursionError) as error:
        raise _broken(where, f"not JSON ({error})") from error
    return _check({**(defaults or {}), **value} if isinstance(value, dict) else value, where, fields)


def _check(value: object, where: str, fields: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _broken(where, "a JSON object is expected")
    for name, kind in fields.items():
        if name not in value:
            raise _broken(where, f"`{name}` is missing")
        # bool is an int in Python, not here
        if not isinstance(value[name], kind) or (isinstance(value[name], bool) and kind is not bool):
            raise _broken(where, f"`{name}` has the wrong type")
    return value


def _refuse_constant(where: str) -> Callable[[str], Any]:
    def refuse(name: str) -> Any:
        raise _broken(where, f"{name} is not JSON")

    return refuse


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise StorageError("missing", where=str(path), mend="evaluate this run first") from error
    except UnicodeDecodeError as error:
        raise _broken(str(path), f"not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise StorageError(f"could not be read: {error.strerror}", where=str(path)) from error


def _broken(where: str, what: str) -> StorageError:
    return StorageError(what, where=where, mend="evaluate this run again: the file was edited or damaged")
