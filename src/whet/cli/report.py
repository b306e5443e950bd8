"""`whet report RUN`: write the run's report.html from the files of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.completion import run_paths
from whet.cli.output import say


def report(run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN", autocompletion=run_paths)]) -> None:
    """Write RUN/report.html, one file that needs no network; works while the run is still going."""
    from whet.report import write_report

    say(f"report: {write_report(run)}")
