"""Text as a reader must see it: nothing invisible, nothing that turns its direction round, bounded in length."""

from __future__ import annotations

import re

from markupsafe import Markup

_MAX_TEXT = 20_000

# control characters but tab and newline, soft hyphen, direction marks and overrides (U+202E turns text around),
# zero-width characters but the joiners that scripts and emoji need, line separators, byte order mark, lone surrogates,
# tag characters
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(value: object) -> object:
    """Text with invisible and direction-changing characters written out (`<U+202E>`) and its length bounded."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n")
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]} ... ({len(text) - _MAX_TEXT:,} more characters)"
    return _INVISIBLE.sub(lambda match: f"<U+{ord(match[0]):04X}>", text)
