"""Inspection -> inspect.html: one file, no network, no script, every text escaped.

token_view.html.j2 is the page; its looks are report.css and token_view.css. Taught tokens are coloured and
underlined, so that nothing rests on colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from whet import atomic
from whet.inspection import Inspection, SampleView, TokenRole, TokenView
from whet.report.html import page_template
from whet.report.inspection_tables import bars, build_tables

FILE_NAME = "inspect.html"
_HERE = Path(__file__).parent
_ROLES: tuple[TokenRole, ...] = ("system", "user", "assistant", "tool", "prompt", "template")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Neighbouring tokens of one role, taught as a whole or not at all."""

    role: TokenRole
    is_taught: bool
    is_named: bool
    """whether the role is written before it: where a message begins"""
    tokens: tuple[TokenView, ...]


def write_inspection(inspection: Inspection, path: Path) -> None:
    """Write the page to `path`, creating its folder; StorageError where that cannot be written."""
    atomic.write_text(path, render_inspection(inspection))


def render_inspection(inspection: Inspection) -> str:
    """The whole page; the same inspection gives the same bytes."""
    css = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("report.css", "token_view.css"))
    shown = [*inspection.rows, *(document for each in inspection.passes for document in each.documents)]
    found = {token.role for sample in shown for token in sample.tokens}
    return page_template("token_view.html.j2").render(
        css=Markup(css),  # noqa: S704 our own files
        inspection=inspection,
        tables=build_tables(inspection),
        histograms=[(summary.name, bars(summary)) for summary in inspection.sets],
        roles=[role for role in _ROLES if role in found],
        stretches=stretches,
        label=label,
        look=look,
    )


def stretches(sample: SampleView) -> Iterator[Stretch]:
    """The sample cut where the role changes or teaching begins or ends."""
    role_before = None
    for (role, is_taught), group in groupby(sample.tokens, key=lambda token: (token.role, token.is_taught)):
        is_named = role not in ("template", role_before)
        yield Stretch(role=role, is_taught=is_taught, is_named=is_named, tokens=tuple(group))
        role_before = role


def label(token: TokenView) -> str:
    """What a reader sees on pointing at a token."""
    taught = "taught" if token.is_taught else "not taught"
    shared = "" if token.text else ", goes on with the character before"
    return f"position {token.position:,}, id {token.id}, {token.role}, {taught}{shared}"


def look(token: TokenView) -> str:
    """CSS classes of a token."""
    is_break = bool(token.text) and not token.text.strip("\r\n")
    marks = (("special", token.is_special), ("joined", not token.text), ("break", is_break))
    return " ".join(["t", *(name for name, holds in marks if holds)])
