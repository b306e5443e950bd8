"""Chat templates are programs that came with a model: they run in a child process that is limited and can be ended.

One child per process, started at the first conversation, ended with its parent. It gets JSON and gives JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from whet.data.limited_child import LimitedChild
from whet.errors import RecipeError

_CHILD = Path(__file__).with_name("sandbox_child.py")
_SECONDS_PER_TEXT = 0.01
_CHARACTERS_PER_CHARACTER = 16
_FREE_CHARACTERS = 100_000
_MEND = (
    "name another one in `data.chat_template` (llama-3, llama-3.1, nemotron-nano, smollm2), "
    "use `data.template: plain`, or get the model from a source that you trust"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """The text of a chat template with what it may read besides the conversation."""

    name: str
    """for messages: `the chat template llama-3`"""
    text: str
    variables: dict[str, str]
    """special tokens and the date"""
    max_seconds: float
    """wall time for a request, besides 10 ms per text"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One conversation to render, at several cuts."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    cuts: tuple[tuple[int, bool], ...]
    """per text: number of messages, and whether the text is to end where the answer begins"""
    num_characters: int
    """of the conversation: a text may have 16 times as many and 100,000 more"""
    origin: str


def _command() -> list[str]:
    folders = {str(Path(module.__file__ or "").parents[1]) for module in (jinja2, markupsafe)}
    return [sys.executable, "-I", "-S", "-B", str(_CHILD), *sorted(folders)]


_CHILD_PROCESS = LimitedChild(_command, "renders chat templates")


def render_jobs(template: ChatTemplate, jobs: Sequence[Job]) -> list[list[str] | str]:
    """Per conversation its texts, or a sentence why the template refuses it.

    Raises RecipeError that names the template when it needs more time, room or rights than a chat template has.
    """
    num_texts = sum(len(job.cuts) for job in jobs)
    seconds = template.max_seconds + _SECONDS_PER_TEXT * num_texts
    conversations = [_conversation(job) for job in jobs]
    request = {
        "template": template.text,
        "variables": template.variables,
        "seconds": seconds,
        "conversations": conversations,
    }
    # JSON in ASCII takes up to 12 bytes for a character
    max_bytes = sum(
        12 * each["max_characters"] * len(job.cuts) + 1000 for each, job in zip(conversations, jobs, strict=True)
    )
    started = time.monotonic()
    lines = _CHILD_PROCESS.ask(json.dumps(request).encode("ascii") + b"\n", len(jobs), seconds, max_bytes)
    answers: list[list[str] | str] = []
    for job, line in zip(jobs, lines, strict=False):
        reply = json.loads(line)
        if "fault" in reply:
            _CHILD_PROCESS.end()
            raise RecipeError(f"{template.name} cannot be used: {reply['fault']}", where=job.origin, mend=_MEND)
        answers.append(reply["texts"] if "texts" in reply else reply["refusal"])
    if len(answers) < len(jobs):
        is_late = time.monotonic() - started >= seconds
        why = f"did not finish within {seconds:.1f} s" if is_late else "ended the process that renders it"
        raise RecipeError(f"{template.name} {why}", where=jobs[len(answers)].origin, mend=_MEND)
    return answers


def _conversation(job: Job) -> dict[str, Any]:
    return {
        "messages": job.messages,
        "tools": job.tools,
        "cuts": job.cuts,
        "max_characters": _CHARACTERS_PER_CHARACTER * job.num_characters + _FREE_CHARACTERS,
    }


def child_id() -> int | None:
    """Process id of the child, for tests."""
    return _CHILD_PROCESS.id
