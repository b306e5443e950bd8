"""EvalReport and Comparison <-> files of `<run>/evaluations/<dataset>/`.

`base.jsonl` and `tuned.jsonl` hold one line per row, `*.summary.json` what all rows share, `comparison.json` the
verdict. The report of the model called `base` is stored as base, any other as tuned. Times stand in the summary only:
the same model answers the same rows with the same lines, however often it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whet import atomic
from whet.errors import StorageError
from whet.types import Comparison, EvalReport, Generation, Interval, Judgement

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
}
# files of earlier versions do not say these
_SUMMARY_DEFAULTS = {"code": "", "num_rows_of_set": 0}
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
_COMPARISON_FIELDS = {
    "dataset": str,
    "num_rows": int,
    "base_accuracy": dict,
    "tuned_accuracy": dict,
    "difference": dict,
    "wins": int,
    "losses": int,
    "p_value": (int, float),
    "verdict": str,
    "base_format_rate": (int, float),
    "tuned_format_rate": (int, float),
    "base_stop_rate": (int, float),
    "tuned_stop_rate": (int, float),
    "sentences": list,
}
_INTERVAL_FIELDS = {"estimate": (int, float), "low": (int, float), "high": (int, float), "level": (int, float)}
_ENDS = ("stop_token", "stop_string", "length")
_VERDICTS = ("better", "worse", "not distinguishable")


def list_datasets(run_folder: Path) -> list[str]:
    """Names of the datasets with at least one stored report, sorted."""
    return sorted({path.parent.name for path in (run_folder / "evaluations").glob("*/*.summary.json")})


def write_eval_report(folder: Path, report: EvalReport) -> None:
    """Write `<base|tuned>.jsonl`, then `.summary.json`: where the summary exists, the rows are whole.

    A comparison made from the replaced rows is removed.
    """
    stem = _stem(report.model)
    rows = [row_document(g, j) for g, j in zip(report.generations, report.judgements, strict=True)]
    summary = {name: getattr(report, name) for name in _SUMMARY_FIELDS if name != "num_rows"}
    summary |= {"num_rows": len(rows), "accuracy": report.accuracy}
    atomic.remove(folder / "comparison.json")
    atomic.remove(folder / f"{stem}.summary.json")
    atomic.write_text(folder / f"{stem}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    atomic.write_text(folder / f"{stem}.summary.json", json.dumps(summary, indent=2) + "\n")


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
    lines = _read(rows_path).split("\n")
    if lines[-1] != "":
        raise _broken(f"{rows_path}:{len(lines)}", "the last line is torn")
    seconds = summary["seconds"] / max(1, len(lines) - 1)
    rows = [parse_row(line, f"{rows_path}:{number}", seconds) for number, line in enumerate(lines[:-1], start=1)]
    if len(rows) != summary["num_rows"]:
        raise _broken(str(rows_path), f"{len(rows)} rows, but {summary_path.name} says {summary['num_rows']}")
    return EvalReport(
        **{name: summary[name] for name in _SUMMARY_FIELDS if name != "num_rows"},
        generations=tuple(generation for generation, _ in rows),
        judgements=tuple(judgement for _, judgement in rows),
    )


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write `comparison.json`; a file that already says the same is left alone."""
    path = folder / "comparison.json"
    text = json.dumps(asdict(comparison), indent=2) + "\n"
    if not path.is_file() or _read(path) != text:
        atomic.write_text(path, text)


def read_comparison(folder: Path) -> Comparison:
    """Read what `write_comparison` wrote; StorageError says what is malformed."""
    path = folder / "comparison.json"
    fields = _parse(_read(path), str(path), _COMPARISON_FIELDS)
    if fields["verdict"] not in _VERDICTS:
        raise _broken(str(path), f"verdict must be one of {', '.join(_VERDICTS)}")
    for name in ("base_accuracy", "tuned_accuracy", "difference"):
        _check(fields[name], f"{path} {name}", _INTERVAL_FIELDS)
        fields[name] = Interval(**{key: fields[name][key] for key in _INTERVAL_FIELDS})
    fields["sentences"] = tuple(str(sentence) for sentence in fields["sentences"])
    return Comparison(**{name: fields[name] for name in _COMPARISON_FIELDS})


def _stem(model: str) -> str:
    return "base" if model == "base" else "tuned"


def parse_row(line: str, where: str, seconds: float) -> tuple[Generation, Judgement]:
    """What `row_document` wrote, `seconds` its share of the time; StorageError names what is malformed."""
    row = _parse(line, where, _ROW_FIELDS)
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
    except (json.JSONDecodeError, RecursionError) as error:
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
