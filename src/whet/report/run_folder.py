"""Run folder -> RunView: everything the report shows, read tolerantly from plain files.

A file may be missing (a run still going, a run without evaluation) or damaged: what cannot be read becomes one
sentence in `problems`, never an error. Nothing but the files of the run folder is read.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, StorageError
from whet.recipe import parse_recipe
from whet.report.live_samples import FILE_NAME as SAMPLES
from whet.report.live_samples import RowSamples, by_row, parse_sample
from whet.report.metrics_log import EvalPoint, Event, MetricsLog, StepPoint, finite
from whet.types import Comparison
from whet.verdict import from_document

_MARKS = ("recipe.yaml", "run_plan.json", "metrics.jsonl", "summary.json", "evaluations")
_BENCHMARKS = "results.json"
_MAX_PACKAGES = 1000
_ROLES = ("main", "guard", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentLine:
    """Something that went wrong and that the run mended by itself."""

    step: int
    kind: str
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
    figures: tuple[tuple[str, float, float], ...] = ()
    """(name, base, tuned) of what only the whole set has, such as a corpus BLEU"""


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
    settings: dict[str, Any]
    """key -> its value and where it came from"""
    packages: tuple[str, ...]
    """`name==version` of all that were installed"""
    steps: tuple[StepPoint, ...]
    evals: tuple[EvalPoint, ...]
    rows: tuple[RowSamples, ...]
    """what the model answered while it trained"""
    events: tuple[Event, ...]
    """without those that are told as incidents"""
    incidents: tuple[IncidentLine, ...]
    evaluations: tuple[Evaluation, ...]
    benchmarks: tuple[dict[str, Any], ...]
    """what each tool of standard benchmarks wrote"""
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
    log = _read_metrics(folder / "metrics.jsonl", problems)
    incidents = _read_incidents(folder / "incidents.jsonl", problems)
    told = {(incident.step, incident.text) for incident in incidents}
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
        settings=_read_object(folder / "settings.json", problems),
        packages=tuple((_read_text(folder / "packages.txt", problems) or "").splitlines()[:_MAX_PACKAGES]),
        steps=log.steps,
        evals=log.evals,
        rows=by_row(found for line in _read_lines(folder / SAMPLES, problems) if (found := parse_sample(line))),
        events=tuple(event for event in log.events if (event.step, event.text) not in told),
        incidents=incidents,
        evaluations=_main_first(_read_evaluations(folder / "evaluations", problems), recipe),
        benchmarks=_read_benchmarks(folder / "evaluations", problems),
        problems=tuple(problems),
    )


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none that can be read."""
    return _read_object(path, [])


def _read_text(path: Path, problems: list[str]) -> str | None:
    try:
        # a link may lead anywhere, and a pipe would be waited for
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                problems.append(f"{path.name} is no plain file: not read")
                return None
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            problems.append(f"{path.parent.name}/{path.name} is a symbolic link: not followed")
            return None
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


def _read_metrics(path: Path, problems: list[str]) -> MetricsLog:
    log = MetricsLog()
    for line in _read_lines(path, problems):
        log.add(line)
    return log


def _read_incidents(path: Path, problems: list[str]) -> tuple[IncidentLine, ...]:
    found = (parse_incident(line) for line in _read_lines(path, problems))
    return tuple(incident for incident in found if incident is not None)


def parse_incident(line: Mapping[str, Any]) -> IncidentLine | None:
    """Of a line of incidents.jsonl; None where it is none."""
    step = line.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or abs(step) > 2**53:
        return None
    return IncidentLine(step=step, kind=str(line.get("kind", "")).replace("_", " "), text=str(line.get("text", "")))


def _read_evaluations(folder: Path, problems: list[str]) -> tuple[Evaluation, ...]:
    found = []
    for path in folders_of_sets(folder):
        if (path / _BENCHMARKS).exists():
            continue
        rows = {model: _read_answers(path / f"{model}.jsonl", problems) for model in ("base", "tuned")}
        summaries = [_read_object(path / f"{model}.summary.json", problems) for model in ("base", "tuned")]
        found.append(
            Evaluation(
                dataset=path.name,
                decoding=str(summaries[1].get("decoding", "")),
                comparison=_read_comparison(path / "comparison.json", problems),
                pairs=tuple(
                    Pair(id=id, prompt=row["prompt"], golds=row["golds"], base=row["answer"], tuned=other["answer"])
                    for id, row in rows["base"].items()
                    if (other := rows["tuned"].get(id)) is not None
                ),
                figures=_figures(*summaries),
            )
        )
    return tuple(found)


def _figures(base: dict[str, Any], tuned: dict[str, Any]) -> tuple[tuple[str, float, float], ...]:
    """Numbers that both summaries have under `figures`."""
    ours, theirs = ({} if not isinstance(found := side.get("figures"), dict) else found for side in (base, tuned))
    both = ((name, finite(ours[name]), finite(theirs[name])) for name in ours if name in theirs)
    return tuple((name, b, t) for name, b, t in both if b is not None and t is not None)


def folders_of_sets(evaluations: Path) -> list[Path]:
    """The folders in it; links are not followed."""
    if evaluations.is_symlink() or not evaluations.is_dir():
        return []
    return sorted(child for child in evaluations.iterdir() if child.is_dir() and not child.is_symlink())


def _read_benchmarks(folder: Path, problems: list[str]) -> tuple[dict[str, Any], ...]:
    paths = [path / _BENCHMARKS for path in folders_of_sets(folder)]
    return tuple(found for path in paths if (found := _read_object(path, problems)))


def _main_first(evaluations: tuple[Evaluation, ...], recipe: str) -> tuple[Evaluation, ...]:
    """The sets that the verdict rests on first, then guards, then others; among them in the recipe's own order.

    Beside a recipe that cannot be read (its text is shown all the same) the comparisons say the roles.
    """
    try:
        entries = parse_recipe(recipe, "recipe.yaml").evaluate
    except RecipeError:
        entries = ()
    roles = {e.dataset: e.comparison.role for e in evaluations if e.comparison} | {e.name: e.role for e in entries}
    place = {e.name: i for i, e in enumerate(entries)}

    def rank(evaluation: Evaluation) -> tuple[int, int]:
        role = roles.get(evaluation.dataset, "other")
        return _ROLES.index(role), place.get(evaluation.dataset, len(place))

    return tuple(sorted(evaluations, key=rank))


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
        return from_document(value)
    except ValueError as error:
        problems.append(f"{path.parent.name}/{path.name} is malformed ({error}): no verdict is shown")
        return None
