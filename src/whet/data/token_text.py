"""Token ids -> what people read: the text of each token and the role of the message it stands in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from whet.inspection import SampleView, TokenRole, TokenView

_MAX_GROUP = 8
"""tokens that may share one character; four bytes make the longest one"""
_INCOMPLETE = "\ufffd"
_HEADERS: dict[str, TokenRole] = {
    "system": "system", "user": "user", "assistant": "assistant", "tool": "tool", "ipython": "tool"
}  # fmt: skip


def view_sample(
    tokenizer: Any, ids: np.ndarray, taught: np.ndarray, *, sample_id: str, number: int, end_ids: Collection[int]
) -> SampleView:
    """One sample token by token. `ids`: int [num_tokens], `taught`: bool [num_tokens], `end_ids`: what ends a turn."""
    numbers, marks = ids.tolist(), taught.tolist()
    special = control_tokens(tokenizer, end_ids)
    texts = token_texts(tokenizer, numbers)
    roles = token_roles(
        texts,
        is_special=[number in special for number in numbers],
        is_end=[number in end_ids for number in numbers],
        is_taught=marks,
    )
    tokens = tuple(
        TokenView(position=i, id=number, text=text, is_taught=mark, is_special=number in special, role=role)
        for i, (number, text, mark, role) in enumerate(zip(numbers, texts, marks, roles, strict=True))
    )
    return SampleView(number=number, id=sample_id, tokens=tokens)


def control_tokens(tokenizer: Any, end_ids: Collection[int]) -> dict[int, str]:
    """Id -> text of every token that is no part of running text."""
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | {number: tokenizer.convert_ids_to_tokens(number) for number in end_ids}


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; joined they are the decoded whole.

    Where several tokens make one character, the first shows it and the others are empty.
    """

    def decode(part: Sequence[int]) -> str:
        text: str = tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    texts: list[str] = []
    before: Sequence[int] = ()
    start = 0
    while start < len(ids):
        stop = start + 1
        # the tokens before are decoded along, because some decoders drop the space that begins a text
        known, text = decode(before), decode([*before, *ids[start:stop]])
        while text.endswith(_INCOMPLETE) and stop < len(ids) and stop - start < _MAX_GROUP:
            stop += 1
            text = decode([*before, *ids[start:stop]])
        piece = text[len(known) :] if text.startswith(known) else decode(ids[start:stop])
        texts += [piece, *[""] * (stop - start - 1)]
        before, start = ids[start:stop], stop
    return texts


def token_roles(
    texts: Sequence[str], *, is_special: Sequence[bool], is_end: Sequence[bool], is_taught: Sequence[bool]
) -> list[TokenRole]:
    """The role of the message that each token stands in, read from the headers that chat templates write.

    A header is `<|im_start|>user` and a line break, or `<|start_header_id|>user<|end_header_id|>` and line breaks.
    Under a template that writes no such headers, what is not taught is `prompt`.
    """
    roles: list[TokenRole] = ["template"] * len(texts)
    current: TokenRole = "prompt"
    for start, stop in _runs(is_special):
        run = texts[start:stop]
        is_opened = start > 0 and not is_end[start - 1]
        is_named_whole = is_opened and stop < len(texts) and not is_end[stop]
        if is_named_whole and (named := _HEADERS.get("".join(run))):
            current = named
            continue
        if is_opened and (header := _find_header(run)):
            current, num_skipped = header
        else:
            num_skipped = 0 if current == "prompt" else _num_line_breaks(run)
        for i in range(start + num_skipped, stop):
            roles[i] = "assistant" if is_taught[i] else current
    return roles


def _runs(is_special: Sequence[bool]) -> list[tuple[int, int]]:
    """(start, stop) of the stretches without control tokens."""
    borders = np.flatnonzero(np.diff(np.concatenate([[True], is_special, [True]]).astype(np.int8)))
    return list(zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True))


def _find_header(run: Sequence[str]) -> tuple[TokenRole, int] | None:
    """Role and number of tokens of a header such as `user` and a line break at the beginning of a run."""
    line = ""
    for num_tokens, text in enumerate(run, start=1):
        name, line_break, _ = (line := line + text).partition("\n")
        if line_break:
            return (_HEADERS[name], num_tokens) if name in _HEADERS else None
    return None


def _num_line_breaks(run: Sequence[str]) -> int:
    """Tokens of line breaks alone that begin a run: templates write them around their control tokens."""
    return next((i for i, text in enumerate(run) if text.strip("\n")), len(run))
