"""`whet compare RUN`: base against tuned from the stored answers, as a table and in sentences, or as a gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.errors import GateError, StorageError

if TYPE_CHECKING:
    from whet.types import Comparison

_HEADINGS = ("dataset", "rows", "base", "tuned", "points", "95 % interval", "McNemar p", "verdict")


def compare(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    dataset: Annotated[str | None, typer.Option(help="Compare on this evaluation set only.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with code 8 unless tuned is better on every set.")] = False,
) -> None:
    """Compare the run's stored answers of base and tuned, row by row; nothing is generated anew."""
    from whet.evaluation.compare import compare as compare_reports
    from whet.evaluation.store import list_datasets, read_eval_report, write_comparison
    from whet.recipe.load import load_recipe

    names = _choose(run, dataset, list_datasets(run))
    seed = load_recipe(run / "recipe.yaml").seed
    comparisons = []
    for name in names:
        folder = run / "evaluations" / name
        base, tuned = (read_eval_report(folder, model) for model in ("base", "tuned"))
        comparisons.append(compare_reports(base, tuned, seed=seed))
        write_comparison(folder, comparisons[-1])
    typer.echo(_table(comparisons))
    for comparison in comparisons:
        typer.echo(f"\n{comparison.dataset}")
        for sentence in comparison.sentences:
            typer.echo(f"  {sentence}")
    failed = [comparison for comparison in comparisons if comparison.verdict != "better"]
    if gate and failed:
        raise GateError(
            "; ".join(f"{comparison.dataset}: {comparison.verdict}" for comparison in failed),
            where=str(run),
            mend="the gate passes when tuned is better: train longer, or evaluate on more rows",
        )


def _choose(run: Path, dataset: str | None, stored: Sequence[str]) -> Sequence[str]:
    if not stored:
        raise StorageError("holds no stored answers", where=str(run), mend=f"whet evaluate {run}")
    if dataset is None:
        return stored
    if dataset not in stored:
        raise StorageError(
            f"holds no answers on {dataset!r}", where=str(run), mend=f"use --dataset with one of {', '.join(stored)}"
        )
    return [dataset]


def _table(comparisons: Sequence[Comparison]) -> str:
    rows = [_HEADINGS, *(_cells(comparison) for comparison in comparisons)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cells(c: Comparison) -> tuple[str, ...]:
    return (
        c.dataset,
        str(c.num_rows),
        f"{100 * c.base_accuracy.estimate:.1f} %",
        f"{100 * c.tuned_accuracy.estimate:.1f} %",
        f"{100 * c.difference.estimate:+.1f}",
        f"{100 * c.difference.low:+.1f} to {100 * c.difference.high:+.1f}",
        f"{c.p_value:.2g}",
        c.verdict,
    )
