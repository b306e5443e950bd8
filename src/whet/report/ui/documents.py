"""Run folder -> plain values for the web page, by the code that makes the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whet.errors import RecipeError
from whet.recipe import parse_recipe
from whet.recipe.explain import explain_recipe
from whet.report import ledger_section
from whet.report.facts import commands, facts, status_of, subtitle
from whet.report.metrics_log import MetricsLog
from whet.report.new_lines import parse_place, read_new_lines
from whet.report.run_diff import GROUPS, Side, find_differences, side_of_run
from whet.report.run_folder import Evaluation, Pair, RunView, read_run_folder
from whet.report.run_list import RunLine
from whet.report.samples import choose_samples
from whet.report.verdict_section import evaluation_section
from whet.verdict import overall

_CURVES = ("loss", "lr", "grad_norm", "tokens_per_second")
_MOST_EVENTS = 200
_MOST_ROWS = 40


def of_line(line: RunLine) -> dict[str, Any]:
    """A run of the list; its folder is left out."""
    return {name: value for name, value in asdict(line).items() if name != "folder"}


def points(run: Path, at: str) -> dict[str, Any]:
    """What metrics.jsonl holds behind a place, as columns; the page puts portions together by step."""
    lines = read_new_lines(run / "metrics.jsonl", parse_place(at))
    log = MetricsLog()
    for line in lines.objects:
        log.add(line)
    columns: dict[str, list[float | None]] = {name: [getattr(p, name) for p in log.steps] for name in _CURVES}
    for name in dict.fromkeys(name for point in log.steps for name in point.machine):
        columns[name] = [point.machine.get(name) for point in log.steps]
    return {
        "at": str(lines.place),
        "is_anew": lines.is_anew,
        "has_more": lines.has_more,
        "steps": [point.step for point in log.steps],
        "columns": columns,
        "seconds": [point.seconds for point in log.steps],
        "evals": [{"step": point.step, "values": point.values} for point in log.evals],
    }


def overview(run: Path) -> dict[str, Any]:
    """Everything of a run but its curves and answers."""
    view = read_run_folder(run)
    compared = [each.comparison for each in view.evaluations if each.comparison]
    ledger = ledger_section.ledger_rows(view.ledger)
    return {
        "status": status_of(view),
        "subtitle": subtitle(view),
        "facts": facts(view),
        "bottleneck": str(view.summary.get("bottleneck") or ""),
        "total_steps": view.plan.get("total_steps"),
        "overall": overall(compared).sentence if len(compared) > 1 else "",
        "evaluations": [_evaluation(each) for each in view.evaluations if each.comparison],
        "tokens": ledger_section.token_table(view.data),
        "ledger": {
            "statuses": ledger_section.STATUSES,
            "sets": ledger_section.ledger_table(view.ledger),
            "rows": ledger.shown,
            "num_all": ledger.num_all,
        },
        "notes": [str(note) for note in notes] if isinstance(notes := view.data.get("notes"), list) else [],
        "incidents": [asdict(each) for each in view.incidents[-_MOST_EVENTS:]],
        "events": [asdict(each) for each in view.events[-_MOST_EVENTS:]],
        "problems": view.problems,
        "sentences": _sentences(view),
        "recipe": view.recipe,
        "commands": commands(view),
    }


def _sentences(view: RunView) -> list[str]:
    try:
        return explain_recipe(parse_recipe(view.recipe, "recipe.yaml"))
    except RecipeError as error:
        return [f"its recipe cannot be read: {error}"]


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    shown = evaluation_section(evaluation, 0)
    c = evaluation.comparison
    assert c is not None
    return {
        "dataset": evaluation.dataset,
        "verdict": c.verdict,
        "role": c.role,
        "num_rows": c.num_rows,
        "names": [c.base_name, c.tuned_name],
        "sentences": c.sentences,
        "metrics": [[f"{row['name']} {row['note']}".strip(), *row["cells"]] for row in shown["metrics"]],
    }


def samples(run: Path) -> dict[str, Any]:
    """Answers of training by row, and of base and tuned on the rows that the report shows."""
    view = read_run_folder(run)
    return {
        "training": [
            {"set": row.last.set, "id": row.last.id, "prompt": row.last.prompt, "golds": row.last.golds,
             "answers": [{"step": a.step, "text": a.text, "is_correct": a.is_correct, "was_cut": a.was_cut}
                         for a in row.answers]}
            for row in view.rows[:_MOST_ROWS]
        ],
        "after": [
            {"dataset": each.dataset, "heading": group.heading, "num_rows": group.num_rows,
             "rows": [_pair(sample.pair) for sample in group.samples]}
            for each in view.evaluations for group in choose_samples(each.pairs, each.comparison)
        ],
    }  # fmt: skip


def _pair(pair: Pair) -> dict[str, Any]:
    return {"id": pair.id, "prompt": pair.prompt, "golds": pair.golds[:5],
            "answers": [{"name": name, "text": answer.text, "is_correct": answer.is_correct, "was_cut": answer.was_cut}
                        for name, answer in (("base", pair.base), ("tuned", pair.tuned))]}  # fmt: skip


def differences(runs: Sequence[Path], name_of: Callable[[Path], str]) -> dict[str, Any]:
    """Every value in which one of the runs differs from the first, and the results of all."""
    sides = [side_of_run(run) for run in runs]
    rows = [[group, name, *(_of(side.groups[group], name) for side in sides)] for group, name in _differing(sides)]
    names = dict.fromkeys(name for side in sides for name in side.results)
    return {
        "runs": [name_of(run) for run in runs],
        "differences": rows,
        "results": [[name, *(_of(side.results, name) for side in sides)] for name in names],
        "problems": [problem for side in sides for problem in side.problems],
    }


def _differing(sides: Sequence[Side]) -> list[tuple[str, str]]:
    found = {(each.group, each.name) for other in sides[1:] for each in find_differences(sides[0], other)}
    names = (name for side in sides for group in GROUPS for name in ((group, each) for each in side.groups[group]))
    in_order = dict.fromkeys(name for name in names if name in found)
    return sorted(in_order, key=lambda name: GROUPS.index(name[0]))


def _of(values: Mapping[str, Any], name: str) -> Any:
    return values.get(name)
