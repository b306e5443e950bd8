"""Examples -> token ids, with a length policy that never cuts an answer and the invariants checked row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from whet.data import templates
from whet.errors import DataError
from whet.types import DroppedRow, Example, TemplateKind, TokenizedSample, TokenizedSet

_CHUNK_ROWS = 512
_NUM_LISTED = 20

Policy = Literal["drop", "truncate_prompt", "error"]


def tokenize_examples(
    examples: Sequence[Example], tokenizer: Any, *, template: TemplateKind, max_length: int, over_length: Policy,
    end_ids: Sequence[int],
) -> TokenizedSet:  # fmt: skip
    """All samples that fit `max_length` tokens, with the account of the others.

    `over_length`: `drop` leaves longer rows out; `truncate_prompt` cuts the beginning of the longest user message
    (its last paragraph, where an instruction stands, stays whole; so do system message, template and answer);
    `error` refuses the data. Raises DataError naming the row where a sample breaks an invariant.
    """
    built = templates.build_template(tokenizer, template, end_ids)
    samples, dropped, truncated = [], [], []
    for example, sample in _tokenize_all(built, examples):
        if sample.num_tokens <= max_length:
            samples.append(sample)
            continue
        reason = f"{sample.num_tokens} tokens, max_length is {max_length}"
        shorter = _truncate_prompt(built, example, max_length) if over_length == "truncate_prompt" else None
        if shorter is not None:
            samples.append(shorter)
            truncated.append(DroppedRow(origin=example.origin, reason=f"{reason}; cut to {shorter.num_tokens}"))
        else:
            dropped.append(DroppedRow(origin=example.origin, reason=reason))
    if dropped and over_length == "error":
        raise DataError(_list_rows(dropped, len(examples)), mend="raise `data.max_length`, or set `data.over_length`")
    if not samples:
        raise DataError(f"none of {len(examples)} rows fits max_length {max_length}", mend="raise `data.max_length`")
    return TokenizedSet(samples=tuple(samples), num_rows=len(examples), dropped=tuple(dropped),
                        truncated=tuple(truncated), fingerprint=fingerprint(samples))  # fmt: skip


def _tokenize_all(
    template: templates.Template, examples: Sequence[Example]
) -> Iterator[tuple[Example, TokenizedSample]]:
    for start in range(0, len(examples), _CHUNK_ROWS):
        chunk = examples[start : start + _CHUNK_ROWS]
        rendered = [templates.render(template, example.messages, origin=example.origin) for example in chunk]
        for example, text, pieces in zip(chunk, rendered, templates.encode(template, rendered), strict=True):
            ids, taught = templates.assemble(template, text, pieces)
            sample = TokenizedSample(id=example.id, ids=ids, taught=taught)
            _check(template, sample, example.origin)
            yield example, sample


def _check(template: templates.Template, sample: TokenizedSample, origin: str) -> None:
    if sample.num_taught == 0:
        raise DataError("no token of this row is taught", where=origin, mend="give it an assistant turn to learn")
    last_taught = int(np.flatnonzero(sample.taught)[-1])
    if int(sample.ids[last_taught]) not in template.end_ids:
        raise DataError("the last taught token does not end the turn", where=origin, mend="report this as a bug")
    bos = template.tokenizer.bos_token_id
    if bos is not None and sample.num_tokens > 1 and sample.ids[0] == sample.ids[1] == bos:
        raise DataError("begins with two beginning-of-sequence tokens", where=origin,
                        mend="remove the token's text from the chat template")  # fmt: skip


def _truncate_prompt(template: templates.Template, example: Example, max_length: int) -> TokenizedSample | None:
    """The sample with the fewest characters cut that fits, or None if even the shortest prompt does not fit."""
    users = [index for index, message in enumerate(example.messages) if message.role == "user"]
    longest = max(users, key=lambda index: len(example.messages[index].content))
    content = example.messages[longest].content
    paragraph = content.rstrip().rfind("\n\n")
    too_few, enough = 0, paragraph + 2 if paragraph >= 0 else len(content) - 1

    def shorten(num_characters: int) -> TokenizedSample:
        messages = list(example.messages)
        messages[longest] = replace(messages[longest], content=content[num_characters:])
        return next(_tokenize_all(template, [replace(example, messages=tuple(messages))]))[1]

    best = shorten(enough)
    if best.num_tokens > max_length:
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        sample = shorten(middle)
        if sample.num_tokens <= max_length:
            best, enough = sample, middle
        else:
            too_few = middle
    return best


def _list_rows(rows: Sequence[DroppedRow], num_rows: int) -> str:
    lines = [f"{len(rows)} of {num_rows} rows are too long"]
    lines += [f"    {row.origin}: {row.reason}" for row in rows[:_NUM_LISTED]]
    if len(rows) > _NUM_LISTED:
        lines.append(f"    ... and {len(rows) - _NUM_LISTED} more")
    return "\n".join(lines)


def fingerprint(samples: Iterable[TokenizedSample]) -> str:
    """SHA-256 over ids, tokens and taught marks of the samples in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.id} {sample.num_tokens}\n".encode())
        digest.update(sample.ids.astype("<i4").tobytes())
        digest.update(sample.taught.astype("u1").tobytes())
    return digest.hexdigest()
