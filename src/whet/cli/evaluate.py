"""`whet evaluate RUN`: answer the run's evaluation sets with base and tuned and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.output import say, tell
from whet.cli.progress import ProgressLine


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    fresh: Annotated[bool, typer.Option(help="Answer again even where stored answers still belong.")] = False,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            help="Time for all of it: base and tuned answer the same first rows that fit (at least 8 of each set). "
            "Without this later on, the other rows are answered too.",
            metavar="S",
            min=0,
        ),
    ] = None,
    nemo_rows: Annotated[
        Path | None,
        typer.Option(help="Also write {input, label, prediction} rows, as NeMo's scripts read them.", metavar="FILE"),
    ] = None,
) -> None:
    """Answer the run's held-out rows with base and tuned model and say whether tuning helped.

    Answers are kept as they are made: killed half-way, the same command goes on where it was.
    """
    from whet.cli.quiet import quiet_libraries
    from whet.evaluation.run import EvaluateOptions, evaluate_run
    from whet.report import write_report

    quiet_libraries()
    with ProgressLine() as line:
        options = EvaluateOptions(fresh=fresh, max_seconds=max_seconds, nemo_rows=nemo_rows, progress=line.tell)
        comparisons = evaluate_run(run, say=say, options=options)
    for comparison in comparisons:
        tell(comparison)
    say(f"\nreport: {write_report(run)}")
