"""Ollama's template writes what whet trained on: read by a small interpreter of Go's templates, not by our own code."""

from __future__ import annotations

import re

import pytest
import tiny_folders

from whet.data.templates import build_template, family_text, render
from whet.errors import RecipeError
from whet.export.ollama import _quoted, find_turns, plain_template
from whet.types import Message

_ACTION = re.compile(r"\{\{ (.*?) \}\}")


def run_go(template: str, messages: list[Message], *, system: str | None = None) -> str:
    """What Ollama writes: a SYSTEM of the Modelfile goes before a conversation that has none."""
    if system is not None and messages[0].role != "system":
        messages = [Message(role="system", content=system), *messages]
    values = {
        ".Messages": [{".Role": m.role, ".Content": m.content} for m in messages],
        ".System": "\n\n".join(m.content for m in messages if m.role == "system"),
        ".Prompt": next((m.content for m in reversed(messages) if m.role == "user"), ""),
    }
    parts = _ACTION.split(template)
    text, rest = _run(list(zip(["text", "action"] * len(parts), parts, strict=False)), values)
    assert rest == []
    return text


def _run(parts: list[tuple[str, str]], values: dict) -> tuple[str, list[tuple[str, str]]]:
    """Text up to the matching `end`, and what follows it."""
    text = ""
    while parts:
        (kind, said), *parts = parts
        if kind == "text":
            text += said
        elif said == "end":
            return text, parts
        elif said == "range .Messages":
            bodies = [_run(parts, values | message) for message in values[".Messages"]]
            text += "".join(body for body, _ in bodies)
            parts = bodies[0][1]
        elif said.startswith("if "):
            body, parts = _run(parts, values)
            text += body if _holds(said, values) else ""
        else:
            text += said[1:-1] if said.startswith('"') else values[said]
    return text, parts


def _holds(said: str, values: dict) -> bool:
    if said == "if .System":
        return bool(values[".System"])
    assert said == 'if ne .Role "system"'
    return values[".Role"] != "system"


CONVERSATIONS = [
    [("user", "What is 2+2?")],
    [("system", "Answer in {{ French }}."), ("user", 'Hi "there"')],
    [("user", "a"), ("assistant", "b\nc"), ("user", "\u6f22 d"), ("assistant", "e"), ("user", "f")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")],
]


def tokenizer_of(family: str):
    tokenizer = tiny_folders.smollm() if family == "smollm2" else tiny_folders.llama3()
    tokenizer.chat_template = family_text(family)
    return tokenizer


@pytest.mark.parametrize("family", ["smollm2", "llama-3", "llama-3.1", "nemotron-nano"])
def test_ollama_writes_what_whet_writes(family):
    tokenizer = tokenizer_of(family)
    template = build_template(tokenizer, "chat", [tokenizer.eos_token_id])
    turns = find_turns(template, tokenizer)
    begin = "" if family == "smollm2" else "<|begin_of_text|>"  # Ollama adds it: add_bos_token in the GGUF file
    for conversation in CONVERSATIONS:
        messages = [Message(role=role, content=content) for role, content in conversation]
        ours = render(template, messages, origin="test", has_answer=False).texts[-1]
        theirs = run_go(turns.go_template(), messages, system=turns.default_system)
        assert begin + theirs == ours
        assert turns.write(messages) == theirs


def test_the_default_system_message_becomes_ollamas_own():
    tokenizer = tokenizer_of("smollm2")
    turns = find_turns(build_template(tokenizer, "chat", [2]), tokenizer)
    assert turns.default_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    tokenizer = tokenizer_of("llama-3")
    assert find_turns(build_template(tokenizer, "chat", [4]), tokenizer).default_system is None


OTHER = {
    "other turns": "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}",
    "numbered": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ loop.index }}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "shouting": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}


@pytest.mark.parametrize("name", OTHER)
def test_any_other_template_is_refused(name):
    tokenizer = tiny_folders.smollm()
    tokenizer.chat_template = OTHER[name]
    with pytest.raises(RecipeError, match="cannot be written for Ollama"):
        find_turns(build_template(tokenizer, "chat", [2]), tokenizer)


def test_a_begin_token_that_only_ollama_would_write_is_refused():
    tokenizer = tokenizer_of("llama-3")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|begin_of_text|>", "")
    with pytest.raises(RecipeError, match="begin token"):
        find_turns(build_template(tokenizer, "chat", [4]), tokenizer)


@pytest.mark.parametrize("prompt", [None, "fiqa", "metamath", "Q: {question} {{x}}\nA: "])
def test_the_plain_template_puts_the_recipes_text_around_the_question(prompt):
    tokenizer = tiny_folders.smollm()
    template = build_template(tokenizer, "plain", [2], prompt=prompt)
    messages = [Message(role="user", content="Why?")]
    assert (
        run_go(plain_template(template), messages) == render(template, messages, origin="t", has_answer=False).texts[-1]
    )
    both = [Message(role="system", content="S"), *messages]
    assert run_go(plain_template(template), both) == render(template, both, origin="t", has_answer=False).texts[-1]


def test_quotes_that_would_end_the_template_are_refused():
    assert _quoted('say "a"\n') == '"""say "a"\n"""'
    for text in ('a """ b', 'ends with "'):
        with pytest.raises(RecipeError, match="quotation marks"):
            _quoted(text)
