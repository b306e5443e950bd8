"""What a request to a model server may hold: keys that are known, text alone, and no more of it than the model reads.

Servers take more than clients of OpenAI's kind send: transformers' renders a chat template that comes in the request,
on the thread that answers everybody, and takes whole generation settings; others fetch pictures from any address.
Standard library and leaves of whet only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whet.json_text import nests_deeply

MOST_BODY_BYTES = 32_000_000
MOST_BODY_SECONDS = 30.0
"""for a request to arrive: a connection that trickles is not kept open for ever"""
_CHARACTERS_PER_TOKEN = 16
_FREE_CHARACTERS = 16_000
_BYTES_PER_CHARACTER = 12
"""of JSON in ASCII, at most"""
_MOST_ANSWERS = 16
_MOST_DEPTH = 30

_EVERYWHERE = (
    "model", "temperature", "top_p", "stop", "stream", "stream_options", "seed", "user", "metadata", "store",
    "service_tier", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "n", "best_of",
    # of vLLM: how a token is drawn and when an answer ends
    "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "skip_special_tokens",
)  # fmt: skip
_OF_CHAT = (
    "messages", "max_tokens", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls",
    "response_format", "reasoning_effort", "safety_identifier", "verbosity", "prompt_cache_key",
)  # fmt: skip
_OF_COMPLETIONS = ("prompt", "suffix", "echo", "max_tokens")
_OF_RESPONSES = (
    "input", "instructions", "max_output_tokens", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text",
    "truncation", "include", "previous_response_id", "safety_identifier", "prompt_cache_key",
)  # fmt: skip
_KEYS = frozenset((*_EVERYWHERE, *_OF_CHAT, *_OF_COMPLETIONS, *_OF_RESPONSES))
_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens")
_COUNTS = ("n", "best_of", "top_logprobs")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text")


def most_body_bytes(context: int | None) -> int:
    """Size of a request; `context` is the tokens that the model reads, None where that is not known."""
    if context is None:
        return MOST_BODY_BYTES
    return min(MOST_BODY_BYTES, _BYTES_PER_CHARACTER * (_CHARACTERS_PER_TOKEN * context + _FREE_CHARACTERS))


def why_refused(document: Mapping[str, Any], context: int | None) -> str | None:
    """What a request asks for that it may not; None where it is fine or the server behind will say so."""
    unknown = sorted(str(key) for key in document if key not in _KEYS)
    if unknown:
        return f"{unknown[0][:60]!r} is no key of a request here"
    if nests_deeply(document, _MOST_DEPTH):
        return f"a request is nested {_MOST_DEPTH} levels deep at most"
    for key in _LENGTHS:
        if (reason := _why_no_number(document, key, context)) is not None:
            return reason
    for key in _COUNTS:
        if (reason := _why_no_number(document, key, _MOST_ANSWERS)) is not None:
            return reason
    if any(kind not in _TEXT_PARTS for kind in _kinds_of_parts(document)):
        return "messages hold text alone here: no pictures, sounds, files or addresses"
    if context is not None and _num_characters(document) > _CHARACTERS_PER_TOKEN * context + _FREE_CHARACTERS:
        return f"the texts are longer than a model that reads {context:,} tokens could read"
    return None


def _why_no_number(document: Mapping[str, Any], key: str, most: int | None) -> str | None:
    value = document.get(key)
    # text and fractions, which a server would turn into a number after this look at them
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return f"{key} is a whole number, 0 or more"
    return f"{key} is {most:,} at most" if most is not None and value > most else None


def _kinds_of_parts(document: Mapping[str, Any]) -> Iterator[str]:
    """Kinds of all parts of all messages; a part without one has the kind ""."""
    for key in ("messages", "input"):
        messages = document.get(key)
        for message in messages if isinstance(messages, list) else ():
            content = message.get("content") if isinstance(message, dict) else None
            for part in content if isinstance(content, list) else ():
                if isinstance(part, dict):
                    yield str(part.get("type", ""))


def _num_characters(value: Any) -> int:
    waiting, total = [value], 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            total += len(each)
        elif isinstance(each, dict):
            waiting += each.keys()
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return total
