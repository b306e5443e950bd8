"""Answers on the screen while they are written: one model under the other, or side by side in columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from whet.cli.output import put, put_text
from whet.visible import spelled_out

if TYPE_CHECKING:
    from rich.console import Console

    from whet.cli.chat_loop import Side


def show(sides: Sequence[Side], question: str, *, is_terminal: bool) -> None:
    """Put the question to every side. DataError and KeyboardInterrupt come through; what was written stays."""
    if len(sides) > 1 and is_terminal and sys.stdout.isatty():
        from rich.console import Console

        show_in_columns(sides, question, Console())
    else:
        _one_by_one(sides, question)


def _one_by_one(sides: Sequence[Side], question: str) -> None:
    for side in sides:
        is_labelled = False
        try:
            with closing(side.conversation.ask(question)) as pieces:
                for piece in pieces:
                    if len(sides) > 1 and not is_labelled:
                        put_text(f"{side.name}: ")
                    is_labelled = True
                    put_text(piece)
        finally:
            if is_labelled:
                put("\n")


def show_in_columns(sides: Sequence[Side], question: str, console: Console) -> None:
    """Every side in a column of its own, all written at the same pace."""
    from rich.live import Live

    texts = [""] * len(sides)
    with ExitStack() as until_done:
        streams = [until_done.enter_context(closing(side.conversation.ask(question))) for side in sides]
        # the first pieces before anything is drawn: a question that does not fit is told instead
        for number, stream in enumerate(streams):
            texts[number] += next(stream, "")
        live = Live(_table(sides, texts), console=console, refresh_per_second=10)
        # before it starts: Ctrl-C while it starts would leave it drawing for ever
        until_done.callback(live.stop)
        live.start()
        waiting = dict(enumerate(streams))
        while waiting:
            for number, stream in list(waiting.items()):
                piece = next(stream, None)
                if piece is None:
                    del waiting[number]
                else:
                    texts[number] += piece
            live.update(_table(sides, texts))


def _table(sides: Sequence[Side], texts: Sequence[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True, show_lines=False, box=None, padding=(0, 2, 0, 0))
    for side in sides:
        table.add_column(Text(side.name), ratio=1, overflow="fold")
    table.add_row(*(Text(spelled_out(text)) for text in texts))
    return table
