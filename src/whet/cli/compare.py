"""`whet compare`: base against tuned, run against run, or means over seeds, from stored answers; a table or a gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.completion import run_paths
from whet.cli.output import put, say, verdicts_document
from whet.cli.run_argument import check_run
from whet.errors import GateError, RecipeError

if TYPE_CHECKING:
    from whet.evaluation.pairings import Pairings
    from whet.types import Comparison

_STANDARD_OUTPUT = Path("-")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="One run folder: its base against its tuned model. Two, A and B: the tuned model of A (in base's "
            "place) against that of B. Three or more: the base they share against the mean of their tuned models, "
            "which count as seeds of one recipe.",
            metavar="RUN...",
            autocompletion=run_paths,
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="What takes base's place instead, for any number of RUNs: a run folder (repeat it for the mean of "
            "several seeds) or the word `base`.",
            metavar="RUN|base",
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Compare on this evaluation set only.")] = None,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate", help="Exit with code 8 unless tuned is better on every main set and worse on no guard set."
        ),
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Also write everything as JSON; `-` prints it and nothing else.", metavar="FILE"),
    ] = None,
) -> None:
    """Compare stored answers row by row; nothing is generated anew."""
    from whet import atomic
    from whet.evaluation.compare import compare_sides
    from whet.evaluation.store import write_comparison
    from whet.verdict import overall

    for run in (*runs, *(Path(each) for each in against or () if each != "base")):
        check_run(run)
    pairings = _pair(runs, against or [], dataset)
    comparisons = [compare_sides(*sides, seed=pairings.seed) for sides in pairings.sides.values()]
    comparisons.sort(key=lambda c: ("main", "guard", "other").index(c.role))
    if _is_base_against_tuned(runs, against or []):
        for comparison in comparisons:
            write_comparison(runs[0] / "evaluations" / comparison.dataset, comparison)
    result = overall(comparisons)
    if json_file == _STANDARD_OUTPUT:
        put(_json(comparisons, pairings.notes))
    else:
        _show(comparisons, pairings.notes)
        say(f"\n{result.sentence}")
    if json_file is not None and json_file != _STANDARD_OUTPUT:
        atomic.write_text(json_file, _json(comparisons, pairings.notes))
    if gate and not result.passes_gate:
        raise GateError(
            "; ".join(result.reasons),
            where=", ".join(map(str, runs)),
            mend="the gate passes when tuned is better on every main set and worse on no guard set: train longer or "
            "otherwise, or evaluate on more rows",
        )


def _is_base_against_tuned(runs: Sequence[Path], against: Sequence[str]) -> bool:
    return len(runs) == 1 and list(against) in ([], ["base"])


def _pair(runs: Sequence[Path], against: Sequence[str], dataset: str | None) -> Pairings:
    from whet.evaluation.pairings import pair_base_with_runs, pair_runs

    if "base" in against and len(against) > 1:
        raise RecipeError("--against takes either `base` or run folders", mend="name a folder called base as ./base")
    if list(against) == ["base"] or (not against and len(runs) != 2):
        return pair_base_with_runs(runs, dataset=dataset)
    if against:
        return pair_runs([Path(run) for run in against], runs, dataset=dataset)
    return pair_runs(runs[:1], runs[1:], dataset=dataset)


def _show(comparisons: Sequence[Comparison], notes: Sequence[str]) -> None:
    from whet.cli.comparison_tables import metrics_table, sets_table

    for note in notes:
        say(note)
    say(sets_table(comparisons))
    for comparison in comparisons:
        say(f"\n{comparison.dataset}")
        for sentence in comparison.sentences:
            say(f"  {sentence}")
        if len(comparison.metrics) > 1:
            say("\n" + metrics_table(comparison))


def _json(comparisons: Sequence[Comparison], notes: Sequence[str]) -> str:
    import json

    return json.dumps(verdicts_document(comparisons) | {"notes": list(notes)}, indent=2) + "\n"
