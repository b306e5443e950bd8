"""The links of the pages: whether what they lead to inside the repository is there, anchors included."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from doc_blocks import tokens_of
from markdown_it.token import Token


def links_of(text: str) -> list[str]:
    """Addresses of links and pictures."""
    return [
        str(child.attrs[key])
        for token in tokens_of(text)
        for child in token.children or ()
        for key in ("href", "src")
        if key in child.attrs
    ]


def anchors_of(text: str) -> set[str]:
    """The names of the headings, as GitHub makes them: lower case, blanks as dashes, a number where one comes again."""
    seen: Counter[str] = Counter()
    names = set()
    for title in _titles(tokens_of(text)):
        name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        names.add(name if not seen[name] else f"{name}-{seen[name]}")
        seen[name] += 1
    return names


def _titles(tokens: list[Token]) -> Iterator[str]:
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            yield "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))


def fault_of(link: str, page: Path) -> str:
    """What is wrong with a link on `page`; empty when nothing is. Addresses elsewhere are only looked at."""
    parts = urlsplit(link)
    if parts.scheme:
        is_address = parts.scheme in ("https", "http", "mailto") and ("." in parts.netloc or parts.scheme == "mailto")
        return "" if is_address or parts.hostname in ("127.0.0.1", "localhost") else "not an address"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.exists():
        return "no such file"
    if parts.fragment and (target.suffix != ".md" or parts.fragment not in anchors_of(target.read_text("utf-8"))):
        return "no such heading"
    return ""
