"""`whet evaluate RUN`: answer the run's evaluation sets with base and tuned and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.output import say, tell


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    fresh: Annotated[bool, typer.Option(help="Answer again even where stored answers still belong.")] = False,
) -> None:
    """Answer the run's held-out rows with base and tuned model and say whether tuning helped."""
    from whet.cli.quiet import quiet_libraries
    from whet.evaluation.run import evaluate_run
    from whet.report import write_report

    quiet_libraries()
    for comparison in evaluate_run(run, say=say, fresh=fresh):
        tell(comparison)
    say(f"\nreport: {write_report(run)}")
