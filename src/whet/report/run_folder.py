"""Run folder -> RunView: everything the report shows, read tolerantly from plain files.

A file may be missing (a run still going, a run without evaluation) or damaged: what cannot be read becomes one
sentence in `problems`, never an error. Nothing but the files of the run folder is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, StorageError
from whet.recipe import parse_recipe
from whet.types import Comparison, Interval

_MARKS = ("recipe.yaml", "run_plan.json", "metrics.jsonl", "summary.json", "evaluations")
_VERDICTS = ("better", "worse", "not distinguishable")
_INTERVALS = ("base_accuracy", "tuned_accuracy", "difference")
_COUNTS = ("num_rows", "wins", "losses")
_RATES = ("p_value", "base_format_rate", "tuned_format_rate", "base_stop_rate", "tuned_stop_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """The plotted numbers of one optimizer step; None where the log holds no finite number."""

    step: int
    loss: float | None
    lr: float | None
    grad_norm: float | None
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPoint:
    """Validation loss after `step`, in nats per taught token."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something out of the ordinary, as a sentence."""

    step: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one model wrote for a row, and how it was judged."""

    text: str
    extracted: str
    is_correct: bool
    has_format: bool
    was_cut: bool
    """stopped by the length limit"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One evaluation row with the answers of both models."""

    id: str
    prompt: str
    golds: tuple[str, ...]
    base: Answer
    tuned: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One dataset that was evaluated. Without a comparison there is no verdict."""

    dataset: str
    decoding: str
    comparison: Comparison | None
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """All that the report shows of one run."""

    folder_name: str
    recipe: str
    plan: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, Any]
    ledger: dict[str, Any]
    model: dict[str, Any]
    summary: dict[str, Any]
    steps: tuple[StepPoint, ...]
    evals: tuple[EvalPoint, ...]
    events: tuple[Event, ...]
    evaluations: tuple[Evaluation, ...]
    problems: tuple[str, ...]
    """one sentence per file that is damaged"""


def read_run_folder(folder: Path) -> RunView:
    """Read a run folder as far as it goes; StorageError only if `folder` is not a run folder at all."""
    if not any((folder / name).exists() for name in _MARKS):
        raise StorageError(
            "not a run folder" if folder.is_dir() else "no such folder",
            where=str(folder),
            mend="give the folder named `output` in the recipe of a run that has started",
        )
    problems: list[str] = []
    steps, evals, events = _read_metrics(folder / "metrics.jsonl", problems)
    recipe = _read_text(folder / "recipe.yaml", problems) or ""
    return RunView(
        folder_name=folder.resolve().name,
        recipe=recipe,
        plan=_read_object(folder / "run_plan.json", problems),
        environment=_read_object(folder / "environment.json", problems),
        data=_read_object(folder / "data.json", problems),
        ledger=_read_object(folder / "ledger.json", problems),
        model=_read_object(folder / "model.json", problems),
        summary=_read_object(folder / "summary.json", problems),
        steps=steps,
        evals=evals,
        events=events,
        evaluations=_main_first(_read_evaluations(folder / "evaluations", problems), recipe),
        problems=tuple(problems),
    )


def finite(value: object) -> float | None:
    """`value` as a finite float (below 1e300 in size), or None if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # beyond this, axis arithmetic could overflow; no measured quantity is near it
    return number if abs(number) < 1e300 else None


def _read_text(path: Path, problems: list[str]) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{path.name} could not be read: {error.strerror}")
        return None


def _read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    text = _read_text(path, problems)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.parent.name}/{path.name} is not JSON: {error}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.parent.name}/{path.name} does not hold a JSON object")
        return {}
    return value


def _read_lines(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl file; unreadable lines are counted in one sentence."""
    unreadable: list[int] = []
    for number, line in enumerate((_read_text(path, problems) or "").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield value
        else:
            unreadable.append(number)
    if unreadable:
        where = f"{path.parent.name}/{path.name}:{unreadable[0]}"
        lines = "line was" if len(unreadable) == 1 else "lines were"
        problems.append(f"{len(unreadable)} unreadable {lines} left out, the first is {where}")


def _read_metrics(
    path: Path, problems: list[str]
) -> tuple[tuple[StepPoint, ...], tuple[EvalPoint, ...], tuple[Event, ...]]:
    steps: dict[int, StepPoint] = {}
    evals: dict[int, EvalPoint] = {}
    events = []
    for line in _read_lines(path, problems):
        step, kind, loss = line.get("step"), line.get("kind"), finite(line.get("loss"))
        if not isinstance(step, int) or isinstance(step, bool) or abs(step) > 2**53:
            continue
        if kind == "step":
            steps[step] = StepPoint(
                step=step,
                loss=loss,
                lr=finite(line.get("lr")),
                grad_norm=finite(line.get("grad_norm")),
                tokens_per_second=finite(line.get("tokens_per_second")),
            )
        elif kind == "eval" and loss is not None:
            evals[step] = EvalPoint(step=step, loss=loss)
        elif kind == "event":
            events.append(Event(step=step, text=str(line.get("text", ""))))
    in_order = tuple(steps[step] for step in sorted(steps))
    return in_order, tuple(evals[step] for step in sorted(evals)), tuple(events)


def _read_evaluations(folder: Path, problems: list[str]) -> tuple[Evaluation, ...]:
    if not folder.is_dir():
        return ()
    found = []
    for path in sorted(child for child in folder.iterdir() if child.is_dir()):
        rows = {model: _read_answers(path / f"{model}.jsonl", problems) for model in ("base", "tuned")}
        summary = _read_object(path / "tuned.summary.json", problems)
        found.append(
            Evaluation(
                dataset=path.name,
                decoding=str(summary.get("decoding", "")),
                comparison=_read_comparison(path / "comparison.json", problems),
                pairs=tuple(
                    Pair(id=id, prompt=row["prompt"], golds=row["golds"], base=row["answer"], tuned=other["answer"])
                    for id, row in rows["base"].items()
                    if (other := rows["tuned"].get(id)) is not None
                ),
            )
        )
    return tuple(found)


def _main_first(evaluations: tuple[Evaluation, ...], recipe: str) -> tuple[Evaluation, ...]:
    """The sets that the verdict rests on first, then the recipe's own order.

    Beside a recipe that cannot be read (its text is shown all the same) they stay in the order of their names.
    """
    try:
        entries = parse_recipe(recipe, "recipe.yaml").evaluate
    except RecipeError:
        return evaluations
    names = [e.name for e in sorted(entries, key=lambda e: e.role != "main")]
    place = {name: i for i, name in enumerate(names)}
    return tuple(sorted(evaluations, key=lambda e: place.get(e.dataset, len(place))))


def _read_answers(path: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    answers = {}
    for line in _read_lines(path, problems):
        golds = line.get("golds")
        answers[str(line.get("id", ""))] = {
            "prompt": str(line.get("prompt", "")),
            "golds": tuple(str(gold) for gold in golds) if isinstance(golds, list) else (),
            "answer": Answer(
                text=str(line.get("text", "")),
                extracted=str(line.get("extracted", "")),
                is_correct=line.get("is_correct") is True,
                has_format=line.get("has_format") is True,
                was_cut=line.get("stopped") == "length",
            ),
        }
    return answers


def _read_comparison(path: Path, problems: list[str]) -> Comparison | None:
    value = _read_object(path, problems)
    if not value:
        return None
    try:
        if value["verdict"] not in _VERDICTS:
            raise ValueError("unknown verdict")
        fields: dict[str, Any] = {name: _interval(value[name]) for name in _INTERVALS}
        fields |= {name: int(_number(value[name])) for name in _COUNTS}
        fields |= {name: _number(value[name]) for name in _RATES}
        sentences = tuple(str(sentence) for sentence in value.get("sentences", ()))
        return Comparison(dataset=str(value["dataset"]), verdict=value["verdict"], sentences=sentences, **fields)
    except (KeyError, TypeError, ValueError) as error:
        problems.append(f"{path.parent.name}/{path.name} is malformed ({error}): no verdict is shown")
        return None


def _interval(value: dict[str, object]) -> Interval:
    return Interval(**{name: _number(value[name]) for name in ("estimate", "low", "high", "level")})


def _number(value: object) -> float:
    number = finite(value)
    if number is None:
        raise ValueError(f"{value!r:.40} is not a number")
    return number
