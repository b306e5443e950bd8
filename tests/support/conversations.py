"""Random conversations for template tests: seeded, with everything in them that has broken a renderer somewhere."""

from __future__ import annotations

import random

from whet.types import Message

_WORDS = [
    "How many", " clips", " did", " Natalia", " sell?", "42", " 1,250", " don't", ".", ":", "<", ">", "{{ x }}",
    "{% if %}", "\n", "\n\n", "  ", "\t", "\u00e4\u00f6\u00fc", "\u4f60\u597d", "\u0645\u0631\u062d\u0628\u0627",
    "\U0001f600", "e\u0301", "\u200b", "\u00a0", '"', "\\n", "assistant", "system\n", "\U000f0000",
]  # fmt: skip
_CONTROL = [
    "<|im_end|>", "<|im_start|>system\n", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>",
    "<|start_header_id|>assistant<|end_header_id|>", "<|end_of_text|>",
]  # fmt: skip


def random_conversations(num: int, seed: int) -> list[tuple[Message, ...]]:
    """`num` conversations of one to four questions with taught answers, most answers without space in front."""
    draw = random.Random(seed)
    return [_conversation(draw) for _ in range(num)]


def _conversation(draw: random.Random) -> tuple[Message, ...]:
    turns = []
    if draw.random() < 0.5:
        system = draw.choice(["", "Be brief.", "  Be brief.\n", _text(draw)])
        turns.append(Message(role="system", content=system))
    for _ in range(draw.choice([1, 1, 2, 3, 4])):
        turns.append(Message(role="user", content=draw.choice([_text(draw), f" {_text(draw)}\n"])))
        answer = _text(draw)
        if draw.random() < 0.8:
            answer = answer.strip() or "No."
        turns.append(Message(role="assistant", content=answer, is_taught=True))
    return tuple(turns)


def _text(draw: random.Random) -> str:
    words = [draw.choice(_WORDS) for _ in range(draw.randint(1, 12))]
    if draw.random() < 0.2:
        words.insert(draw.randrange(len(words) + 1), draw.choice(_CONTROL))
    return "".join(words)
