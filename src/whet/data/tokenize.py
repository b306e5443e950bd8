"""Examples -> token ids as a stream, with a length policy that never cuts an answer and every sample checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from whet.data import preflight, templates
from whet.errors import DataError
from whet.types import Example, LedgerRow, TokenizedSample

_CHUNK_ROWS = 512

Policy = Literal["drop", "truncate_prompt", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """What became of one example: a sample, a note why there is none, or both for a shortened one."""

    example: Example
    sample: TokenizedSample | None
    note: LedgerRow | None


def tokenize_stream(
    template: templates.Template, examples: Iterable[Example], *, max_length: int, over_length: Policy
) -> Iterator[Tokenized]:
    """Every example with its sample of at most `max_length` tokens or the reason why there is none.

    `over_length`: `truncate_prompt` cuts the beginning of the longest user message (its last paragraph, where an
    instruction stands, stays whole; so do system message, template and answer); otherwise longer samples are left
    out. Raises DataError naming the row where a sample breaks an invariant (data/preflight.py).
    """
    checks = preflight.SampleChecks(template)
    stream = iter(examples)
    while chunk := list(islice(stream, _CHUNK_ROWS)):
        for example, found in zip(chunk, _tokenize_chunk(template, checks, chunk), strict=True):
            if isinstance(found, DataError):
                note = LedgerRow(origin=example.origin, status="bad", reason=found.what)
                yield Tokenized(example=example, sample=None, note=note)
            elif found.num_tokens <= max_length:
                yield Tokenized(example=example, sample=found, note=None)
            else:
                shorter = None
                if over_length == "truncate_prompt":
                    shorter = _truncate_prompt(template, checks, example, max_length)
                yield _shortened(example, found.num_tokens, shorter, max_length)


def _tokenize_chunk(
    template: templates.Template, checks: preflight.SampleChecks, chunk: list[Example]
) -> list[TokenizedSample | DataError]:
    rendered = templates.render_many(template, chunk)
    good = [each for each in rendered if not isinstance(each, DataError)]
    pieces = iter(templates.encode(template, good))
    found: list[TokenizedSample | DataError] = []
    for example, each in zip(chunk, rendered, strict=True):
        if isinstance(each, DataError):
            found.append(each)
            continue
        try:
            ids, taught = templates.assemble(template, each, next(pieces))
        except DataError as error:
            found.append(error)
        else:
            found.append(TokenizedSample(id=example.id, ids=ids, taught=taught))
    checks.check(chunk, found)
    return found


def _shortened(example: Example, num_tokens: int, shorter: _Shorter | None, max_length: int) -> Tokenized:
    reason = f"{num_tokens} tokens, max_length is {max_length}"
    if shorter is None:
        note = LedgerRow(origin=example.origin, status="too long", reason=reason)
        return Tokenized(example=example, sample=None, note=note)
    num_cut = num_tokens - shorter.sample.num_tokens
    note = LedgerRow(
        origin=example.origin, status="truncated", reason=reason, num_tokens_cut=num_cut, cut_from=shorter.cut_from
    )
    return Tokenized(example=example, sample=shorter.sample, note=note)


@dataclass(frozen=True, slots=True)
class _Shorter:
    sample: TokenizedSample
    cut_from: str


def _truncate_prompt(
    template: templates.Template, checks: preflight.SampleChecks, example: Example, max_length: int
) -> _Shorter | None:
    """The sample with the fewest characters cut that fits, or None if even the shortest prompt does not fit."""
    users = [index for index, message in enumerate(example.messages) if message.role == "user"]
    if not users:
        return None
    longest = max(users, key=lambda index: len(example.messages[index].content))
    content = example.messages[longest].content
    paragraph = content.rstrip().rfind("\n\n")
    too_few, enough = 0, paragraph + 2 if paragraph >= 0 else len(content) - 1

    def shorten(num_characters: int) -> TokenizedSample:
        messages = list(example.messages)
        messages[longest] = replace(messages[longest], content=content[num_characters:])
        [found] = _tokenize_chunk(template, checks, [replace(example, messages=tuple(messages))])
        if isinstance(found, DataError):
            raise found
        return found

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
    return _Shorter(best, f"beginning of message {longest + 1} (user)")
