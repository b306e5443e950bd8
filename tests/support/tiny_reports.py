"""Reports of base and tuned written by hand, for comparisons."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet.evaluation import store
from whet.types import EvalReport, Generation, Judgement

RECIPE = """
version: 1
name: {name}
output: {name}
seed: {seed}
optim: {{lr: {lr}}}
data: {{train: [{{source: rows.jsonl}}]}}
"""


def report(model: str, correct: Sequence[bool], **changes: Any) -> EvalReport:
    """A report of rows that were judged so; `num_formatted` and `num_cut` count from the first row."""
    num_rows = len(correct)
    num_formatted, num_cut = changes.pop("num_formatted", num_rows), changes.pop("num_cut", 0)
    generations = [
        Generation(
            example_id=f"row-{i}",
            prompt=f"question {i}",
            text="answer",
            num_new_tokens=3,
            stopped="length" if i < num_cut else "stop_token",
        )
        for i in range(num_rows)
    ]
    judgements = [
        Judgement(example_id=f"row-{i}", extracted="1", golds=("1",), is_correct=ok, has_format=i < num_formatted)
        for i, ok in enumerate(correct)
    ]
    plain = EvalReport(
        model=model,
        dataset="sums",
        decoding="greedy max_new_tokens=8",
        rows_fingerprint="f",
        generations=tuple(generations),
        judgements=tuple(judgements),
        seconds=1.0,
        weights=model,
    )
    return replace(plain, **changes)


def pair(wins: int, losses: int, both: int, neither: int) -> tuple[EvalReport, EvalReport]:
    """Base and tuned with so many rows of each outcome, in this order."""
    base = [False] * wins + [True] * losses + [True] * both + [False] * neither
    tuned = [True] * wins + [False] * losses + [True] * both + [False] * neither
    return report("base", base), report("demo", tuned)


def write_run(run: Path, *reports: EvalReport, seed: int = 7, lr: float = 1e-4) -> Path:
    """A run folder with a recipe and these stored answers."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text(RECIPE.format(name=run.name, seed=seed, lr=lr), encoding="utf-8")
    for each in reports:
        store.write_eval_report(run / "evaluations" / each.dataset, each)
    return run
