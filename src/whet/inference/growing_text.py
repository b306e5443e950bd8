"""The text of an answer while its tokens arrive, searched for stop strings as it grows.

A token need not end where a character ends, nor a stop string where a token does. Every step decodes a few tokens
only: those of the last two whole characters' borders, as far as anything can still change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
_UNFINISHED = "\ufffd"
"""what decoders write for bytes that are no character (yet)"""


class GrowingText:
    """Text of the tokens so far. Invariant: up to bytes that wait for their character, it is `decode(all tokens)`."""

    def __init__(self, decode: Decode, stop_strings: Sequence[str]) -> None:
        self._decode, self._stop_strings = decode, tuple(stop_strings)
        self._longest = max(map(len, self._stop_strings), default=0)
        self._ids: list[int] = []
        self._settled = ""
        # tokens before `_read` are in `_settled`; those from `_start` on are decoded again, because some decoders
        # write the first token of a text otherwise (SentencePiece drops its space)
        self._start = self._read = 0

    def add(self, token: int) -> str | None:
        """The answer, cut before the first stop string, once the text holds one; else None."""
        self._ids.append(token)
        new = self._unsettled()
        searched_from = max(0, len(self._settled) - self._longest)
        text = self._settled + new
        if not new.endswith(_UNFINISHED):
            self._settled, self._start, self._read = text, self._read, len(self._ids)
        found = [place for stop in self._stop_strings if (place := text.find(stop, searched_from)) >= 0]
        return text[: min(found)] if found else None

    def steady_text(self) -> str:
        """What no later token changes: whole characters, without an end that may become a stop string."""
        longest = min(max(0, self._longest - 1), len(self._settled))
        held = next(
            (n for n in range(longest, 0, -1) if any(s.startswith(self._settled[-n:]) for s in self._stop_strings)), 0
        )
        return self._settled[: len(self._settled) - held]

    def text(self) -> str:
        """All of it, unfinished characters too."""
        return self._settled + self._unsettled()

    def _unsettled(self) -> str:
        before = self._decode(self._ids[self._start : self._read])
        return self._decode(self._ids[self._start :])[len(before) :]
