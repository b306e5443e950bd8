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
    max_rows: Annotated[
        int | None, typer.Option(help="Answer at most this many rows of each set, the first ones.", metavar="N", min=1)
    ] = None,
    plan_files: Annotated[
        Path | None,
        typer.Option(
            help="Also write baseline_results.json, peft_results.json and comparison_report.json, the files of the "
            "FiQA project's evaluation plan.",
            metavar="FOLDER",
        ),
    ] = None,
    nemo_rows: Annotated[
        Path | None,
        typer.Option(
            help="Also write {input, label, prediction} rows, as NeMo's scripts read them, and say what its metric "
            "script makes of them.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Answer the run's held-out rows with base and tuned model and say whether tuning helped.

    Answers are kept as they are made: killed half-way, the same command goes on where it was.
    """
    from whet.cli.quiet import quiet_libraries
    from whet.evaluation.plan_files import write_plan_files
    from whet.evaluation.run import EvaluateOptions, evaluate_run
    from whet.report import write_report

    quiet_libraries()
    with ProgressLine() as line:
        options = EvaluateOptions(
            fresh=fresh, max_seconds=max_seconds, max_rows=max_rows, nemo_rows=nemo_rows, progress=line.tell
        )
        comparisons = evaluate_run(run, say=say, options=options)
    for comparison in comparisons:
        tell(comparison)
    for path in write_plan_files(run, plan_files) if plan_files else ():
        say(f"written: {path}")
    say(f"\nreport: {write_report(run)}")
