"""Lines in, answers out: questions go to the models, lines that begin with a slash are commands."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from whet.cli import chat_screen
from whet.cli.output import complain, say
from whet.errors import DataError, StorageError

if TYPE_CHECKING:
    from whet.inference.chat import Conversation

_HELP = """\
/reset        forget what was said
/system TEXT  set the system message; without TEXT show it; `/system -` takes it away
/save FILE    write the conversation as JSON lines {model, messages}, which whet reads as training rows
/exit         leave (so does Ctrl-D); Ctrl-C stops an answer
A line that begins with a space is a question even if a slash follows."""


@dataclass(slots=True, kw_only=True)
class Side:
    """One of the models that answer."""

    name: str
    conversation: Conversation


@dataclass(slots=True, kw_only=True)
class Chat:
    """All sides are asked the same questions."""

    sides: list[Side]
    is_verbose: bool
    is_terminal: bool
    """whether a person types the questions"""


def lines_of(stream: TextIO) -> Iterator[str]:
    """Lines as they come; at a terminal with a prompt and the line editor, until Ctrl-D."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    if not stream.isatty():
        for line in stream:
            yield line.rstrip("\r\n")
        return
    with_line_editor()
    while True:
        say()
        try:
            yield input("> ")
        except EOFError:
            say()
            return
        except KeyboardInterrupt:
            say("\n(Ctrl-D or /exit leaves)")


def with_line_editor() -> None:
    """Arrow keys and earlier questions in `input`, where Python has its readline module."""
    try:
        import readline
    except ImportError:
        return
    readline.set_auto_history(True)


def run_chat(chat: Chat, lines: Iterator[str]) -> None:
    """Answer every line until there are no more or one says /exit."""
    if chat.is_terminal:
        _greet(chat)
    for line in lines:
        if not line.strip():
            continue
        if line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            if name in ("exit", "quit"):
                return
            _COMMANDS.get(name, _unknown)(chat, rest.strip())
        else:
            _answer(chat, line)


def note(sentence: str) -> None:
    """A remark that is no answer."""
    complain(f"note: {sentence}")


def _greet(chat: Chat) -> None:
    first = chat.sides[0].conversation
    says = [f"{' against '.join(side.name for side in reversed(chat.sides))}: {first.decoding}"]
    says.append(f"it reads {first.responder.context:,} tokens" + ("" if first.remembers else ", one question alone"))
    say(f"{'; '.join(says)}. /help lists the commands.")
    if first.system:
        say(f"system message: {first.system}")


def _answer(chat: Chat, question: str) -> None:
    is_stopped = False
    for side in chat.sides:
        side.conversation.last = None
    try:
        chat_screen.show(chat.sides, question, is_terminal=chat.is_terminal)
    except DataError as error:
        note(str(error))
        return
    except KeyboardInterrupt:
        if not chat.is_terminal:
            raise
        is_stopped = True
    for side in chat.sides:
        _remark(side, chat)
    if is_stopped:
        say("(stopped)")


def _remark(side: Side, chat: Chat) -> None:
    conversation, last = side.conversation, side.conversation.last
    if last is None:
        return
    who = f"{side.name}: " if len(chat.sides) > 1 else ""
    if last.num_forgotten:
        many = "question" if last.num_forgotten == 1 else f"{last.num_forgotten} questions"
        note(f"{who}the window of {conversation.responder.context:,} tokens is full: the oldest {many} left it")
    if last.ended == "length":
        note(f"{who}the answer was cut off at its limit of {last.num_new_tokens:,} tokens")
    if chat.is_verbose:
        note(
            f"{who}{last.num_prompt_tokens:,} tokens read, first new one after {last.first_token_seconds:.2f} s, "
            f"{last.num_new_tokens:,} written, {last.tokens_per_second:.1f} a second"
        )


def _help(_chat: Chat, _rest: str) -> None:
    say(_HELP)


def _reset(chat: Chat, _rest: str) -> None:
    for side in chat.sides:
        side.conversation.reset()
    note("what was said is forgotten")


def _system(chat: Chat, text: str) -> None:
    if not text:
        said = {side.name: side.conversation.system for side in chat.sides}
        for name, message in said.items():
            note(f"system message of {name}: {message or 'none'}")
        return
    for side in chat.sides:
        side.conversation.system = "" if text == "-" else text
    note("the system message is taken away" if text == "-" else "the system message is set")


def _save(chat: Chat, name: str) -> None:
    from whet import atomic

    if not name:
        note("name a file: /save FILE")
        return
    path = Path(name).expanduser()
    if path.exists():
        note(f"{path} exists already; name another file")
        return
    rows = [{"model": side.name, "messages": _messages(side.conversation)} for side in chat.sides]
    try:
        atomic.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except StorageError as error:
        note(str(error))
        return
    note(f"saved: {path}")


def _messages(conversation: Conversation) -> list[dict[str, str]]:
    head = [{"role": "system", "content": conversation.system}] if conversation.system else []
    return [*head, *({"role": turn.role, "content": turn.content} for turn in conversation.turns)]


def _unknown(_chat: Chat, _rest: str) -> None:
    note("there is no such command; /help lists them, and a space before the slash makes it a question")


_COMMANDS: dict[str, Callable[[Chat, str], None]] = {
    "help": _help,
    "reset": _reset,
    "system": _system,
    "save": _save,
}
