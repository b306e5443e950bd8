"""`whet watch RUN`: a run as it goes, in the terminal: curves, speed, memory, time left, answers, incidents."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.output import note, say
from whet.cli.run_argument import check_run

if TYPE_CHECKING:
    from rich.console import Console

    from whet.report.follow import Follower
    from whet.report.run_list import State


def watch(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    once: Annotated[bool, typer.Option("--once", help="Print one view and leave.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1, max=3600.0)] = 2.0,
) -> None:
    """Show how RUN goes, until it ends; Ctrl-C leaves the run alone.

    Reads nothing but the run folder, so it may be called before, during and after training, as often as you like, and
    on another machine that shares the disk. Where the output is no terminal, a line for each piece of news is printed.
    """
    from rich.console import Console

    from whet.cli.watch_screen import view
    from whet.report.follow import Follower

    follower = Follower(check_run(run))
    console = Console()
    states = _states(follower, 0.0 if once else every)
    state = next(states)
    if not once and state == "running":
        is_drawing = console.is_terminal and not console.is_dumb_terminal
        try:
            state = _draw(follower, states, console) if is_drawing else _print_news(follower, states)
        except KeyboardInterrupt:
            state = "running"
        if not is_drawing:
            return
    console.print(view(follower, state, console, num_rows=None))
    say(f"next: {next_command(run, state, has_verdict=(run / 'evaluations').is_dir())}")


def _states(follower: Follower, seconds: float) -> Iterator[State]:
    """Look again and again; ends after the first state that is not `running`."""
    from whet.checkpoint.lock import is_held
    from whet.report.run_list import state_of

    state: State = "running"
    while state == "running":
        is_new = follower.look()
        # asking for the lock could get into the way of a run that begins: only where the files do not tell
        is_at_work = (is_new and follower.num_looks > 1) or is_held(follower.folder) or _is_elsewhere(follower.folder)
        state = state_of(follower.summary, is_held=is_at_work)
        yield state
        time.sleep(seconds)


def _is_elsewhere(run: Path) -> bool:
    """Whether another machine's process says that it is at work: of that one nothing more can be known here."""
    import socket

    from whet.parallel.status import read_statuses

    return any(
        status.rank == 0 and status.state == "running" and status.host != socket.gethostname()
        for status in read_statuses(run)
    )


def _draw(follower: Follower, states: Iterator[State], console: Console) -> State:
    """On the whole screen, which is given back as it was."""
    from rich.live import Live

    from whet.cli.watch_screen import view

    state: State = "running"
    with Live(console=console, screen=True, auto_refresh=False) as live:
        live.update(view(follower, state, console, num_rows=console.height), refresh=True)
        for state in states:
            live.update(view(follower, state, console, num_rows=console.height), refresh=True)
    return state


def _print_news(follower: Follower, states: Iterator[State]) -> State:
    """Lines for a file or a pipe."""
    from whet.cli.watch_screen import News

    news = News(num_lines=25)
    state: State = "running"
    while True:
        for line in news.since(follower):
            note(line)
        if state != "running":
            say(f"the run is {state}")
            return state
        sys.stdout.flush()
        state = next(states, "stopped")


def next_command(run: Path, state: State, *, has_verdict: bool) -> str:
    """What to type after looking at a run in this state."""
    import shlex

    name = shlex.quote(str(run))
    if state == "running":
        return f"whet watch {name}"
    if state != "finished":
        return f"whet train {shlex.quote(str(run / 'recipe.yaml'))}  (continues it)"
    return f"whet report {name}" if has_verdict else f"whet evaluate {name}"
