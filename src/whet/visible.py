"""Text as a reader must see it: nothing invisible, nothing that turns its direction round or steers a terminal.

Rows, models and file names come from anywhere: an escape sequence among them can rename a terminal's window, hide a
line or write to the clipboard, and a direction override makes one text read as another. Imports nothing of whet.
"""

from __future__ import annotations

import re

# control characters but tab and newline, soft hyphen, direction marks and overrides (U+202E turns text around),
# zero-width characters but the joiners that scripts and emoji need, line separators, byte order mark, lone surrogates,
# tag characters
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def spelled_out(text: str) -> str:
    """`text` with every invisible or direction-changing character written as `<U+202E>`."""
    return _INVISIBLE.sub(lambda match: f"<U+{ord(match[0]):04X}>", text.replace("\r\n", "\n"))
