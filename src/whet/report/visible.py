"""Text on a page: nothing invisible, nothing that turns its direction round, bounded in length."""

from __future__ import annotations

from markupsafe import Markup

from whet.visible import spelled_out

MAX_TEXT = 20_000


def visible(value: object, *, max_text: int = MAX_TEXT) -> object:
    """Text with invisible and direction-changing characters written out (`<U+202E>`) and its length bounded."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n")
    if len(text) > max_text:
        text = f"{text[:max_text]} ... ({len(text) - max_text:,} more characters)"
    return spelled_out(text)
