"""`whet ui [FOLDER]`: a web page of this machine alone over all runs below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.output import note, say
from whet.errors import StorageError

_RUNS = Path("runs")


def ui(
    folder: Annotated[Path, typer.Argument(help="Run folder, or a folder of runs.", metavar="[FOLDER]")] = _RUNS,
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1 to listen to; 0: any free one.", min=0, max=65535)] = 0,
) -> None:
    """Serve a page with the runs below FOLDER: live curves, comparisons, answers, ledger, incidents. Ctrl-C ends it.

    The page is for this machine and needs no network. Its address holds a random word: who does not have it sees
    nothing. From another machine: ssh -L PORT:127.0.0.1:PORT HOST, with --port PORT.
    """
    from whet.checkpoint.lock import is_held
    from whet.report.ui import Server

    if not folder.is_dir():
        raise StorageError("is no folder", where=str(folder), mend="name a run folder, or a folder of runs")
    with Server(folder, port=port, is_held=is_held) as server:
        say(f"whet ui: {server.url}")
        note("Ctrl-C ends it")
        try:
            server.serve()
        except KeyboardInterrupt:
            note("ended")
