"""Targets of the fuzzer: chat templates, and conversations in the built-in ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuzz_targets import Parser

from whet.data.templates.families import FAMILIES, family_text
from whet.data.templates.sandbox import ChatTemplate, Job, render_jobs

_TALK = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
_VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "date_string": "26 Jul 2024"}
_MAX_SECONDS = 1.0


def _render(text: str, messages: list[dict[str, Any]], tools: list[Any] | None) -> None:
    template = ChatTemplate(name="the template", text=text, variables=_VARIABLES, max_seconds=_MAX_SECONDS)
    cuts = ((len(messages) - 1, True), (len(messages), False))
    size = len(json.dumps([messages, tools]))
    render_jobs(template, [Job(messages=messages, tools=tools, cuts=cuts, num_characters=size, origin="row 1")])


def template(scratch: Path) -> Parser:
    def parse(data: bytes) -> None:
        _render(data.decode("utf-8", "replace"), _TALK, None)

    return parse


def conversation(scratch: Path) -> Parser:
    texts = [family_text(name) for name in FAMILIES]

    def parse(data: bytes) -> None:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = [{"role": "user", "content": data.decode("utf-8", "replace")}]
        messages = document if isinstance(document, list) else [document]
        tools = messages.pop(0) if messages and isinstance(messages[0], list) else None
        _render(texts[len(data) % len(texts)], messages, tools)

    return parse
