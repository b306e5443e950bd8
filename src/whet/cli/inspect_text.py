"""An inspection for the terminal: tables, bars, and samples whose taught tokens stand out with and without colour."""

from __future__ import annotations

import io
from itertools import groupby
from typing import Literal

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from whet.inspection import Inspection, SampleView, TokenView
from whet.report.inspection_tables import Table, bars, build_tables
from whet.report.visible import visible

_BAR_CHARACTERS = 40


def inspection_text(inspection: Inspection, *, with_colour: bool, with_ids: bool, width: int) -> str:
    """Everything but the first step's passes, at most `width` characters wide. Without colour, taught tokens stand in
    `[[...]]`; with it they are green and underlined, control tokens are reversed, what is not taught is dim."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=with_colour, color_system="standard" if with_colour else None,
                      width=width, markup=False, highlight=False, emoji=False)  # fmt: skip
    for table in build_tables(inspection):
        _print_table(console, table)
    for summary in inspection.sets:
        if found := bars(summary):
            _print_heading(console, f"Lengths of {summary.name} in tokens")
            for bar in found:
                drawn = "#" * round(_BAR_CHARACTERS * bar.share_of_highest)
                console.print(f"{bar.label:>17} {bar.count:>9,} {drawn}".rstrip())
    for sample in inspection.rows:
        counts = f"{len(sample.tokens):,} tokens, {sample.num_taught:,} taught"
        _print_heading(console, f"{inspection.shown_set} {sample.number:,} ({sample.id}): {counts}")
        if with_ids:
            _print_without_margin(console, _token_table(sample))
        else:
            console.print(_token_text(sample, with_colour), soft_wrap=True)
    return file.getvalue()


def _print_heading(console: Console, heading: str) -> None:
    console.print()
    console.print(Text(_plain(heading), style="bold"))


def _print_table(console: Console, table: Table) -> None:
    _print_heading(console, table.title)
    drawn = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(table.columns):
        justify: Literal["left", "right"] = "right" if table.is_number_column(number) else "left"
        drawn.add_column(Text(column), justify=justify, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(_plain(cell)) for cell in row))
    _print_without_margin(console, drawn)
    if table.note:
        _print_without_margin(console, Text(table.note, style="dim"))


def _print_without_margin(console: Console, drawn: RichTable | Text) -> None:
    """Without the spaces that fill lines up."""
    with console.capture() as capture:
        console.print(drawn)
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def _plain(text: str) -> str:
    """Text without control characters: data must not steer the terminal."""
    return str(visible(text))


def _token_text(sample: SampleView, with_colour: bool) -> Text:
    text = Text()
    for is_taught, tokens in groupby(sample.tokens, key=lambda token: token.is_taught):
        text.append("[[" if is_taught and not with_colour else "")
        for token in tokens:
            text.append(_plain(token.text), style=_style(token))
        text.append("]]" if is_taught and not with_colour else "")
    return text


def _style(token: TokenView) -> str:
    style = "green underline" if token.is_taught else "dim"
    return f"{style} reverse" if token.is_special else style


def _token_table(sample: SampleView) -> RichTable:
    drawn = RichTable("position", "id", "role", "taught", "text", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for token in sample.tokens:
        shown = repr(_plain(token.text)) if token.text else "(goes on)"
        taught = "taught" if token.is_taught else ""
        drawn.add_row(str(token.position), str(token.id), token.role, taught, Text(shown, style=_style(token)))
    return drawn
