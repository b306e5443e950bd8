"""`whet report RUN`: write the run's report.html from the files of its folder, or print a short text about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli import verbosity
from whet.cli.completion import run_paths
from whet.cli.output import Json, give, put, say


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN", autocompletion=run_paths)],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print verdict, figures and commands for a pull request instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write RUN/report.html, one file that needs no network; works while the run is still going."""
    from whet.report import write_report
    from whet.report.markdown import render_markdown
    from whet.report.run_folder import read_run_folder

    verbosity.speak_to_program(as_json)
    if markdown:
        text = render_markdown(read_run_folder(run))
        if as_json:
            give({"markdown": text})
        else:
            put(text)
        return
    path = write_report(run)
    say(f"report: {path}")
    if as_json:
        give({"report": str(path), "num_bytes": path.stat().st_size})
