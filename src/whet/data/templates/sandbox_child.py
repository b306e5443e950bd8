"""The child process that renders chat templates: jinja2 and the standard library, nothing of whet or of its user.

Run as a file, never imported. Each line on stdin is one request, each line on stdout the answer to one conversation:

    {"template": text, "variables": {...}, "seconds": s,
     "conversations": [{"messages": [...], "tools": [...] or null, "cuts": [[num_messages, is_prompt], ...],
                        "max_characters": n}, ...]}

    {"texts": [...]} | {"refusal": why} | {"fault": why}

A refusal concerns one conversation, a fault the template. Memory, processor time and files are limited by the
operating system; the parent limits wall time.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

sys.path += sys.argv[1:]  # where jinja2 and markupsafe are: this interpreter looks nowhere else (python -I -S)

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

_MAX_BYTES = 1 << 30
_TODAY = datetime(2024, 7, 26)


class Refusal(jinja2.TemplateError):
    """The template's own `raise_exception`."""


class TooLongError(RuntimeError):
    """The text of a conversation is out of all proportion to the conversation."""


FAULTS = (
    jinja2.TemplateSyntaxError,
    jinja2.exceptions.SecurityError,
    TooLongError,
    MemoryError,
    RecursionError,
    OverflowError,
)
REFUSALS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for others; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 asks for a set on the class

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> str:
        text: str = caller()
        return text


class PlainNamespace(jinja2.utils.Namespace):
    """`namespace()` without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # as in jinja2: `namespace(self=...)` must work
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace() takes no attribute {name!r}")


class PlainDict:
    """`dict(...)` and `dict.fromkeys(...)`, and no way from there to the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _refuse_attribute(value: object, attribute: str) -> None:
    raise jinja2.exceptions.SecurityError(f"{attribute!r} of {type(value).__name__!r} is not for templates")


def _raise_exception(message: object) -> None:
    raise Refusal(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return _TODAY.strftime(pattern)


def build_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """The environment that chat templates are written for (that of transformers), with a day that does not change
    and without jinja2's two sources of chance."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": PlainDict(),
        "namespace": PlainNamespace,
    }
    # jinja2 gives such an attribute as undefined, which prints as nothing; here reaching for it is an error
    environment.unsafe_undefined = _refuse_attribute  # type: ignore[assignment,method-assign]
    del environment.globals["lipsum"], environment.filters["random"]
    return environment


ENVIRONMENT = build_environment()


@lru_cache(maxsize=8)
def compile_template(text: str) -> jinja2.Template:
    return ENVIRONMENT.from_string(text)


def answer(request: dict[str, Any], conversation: dict[str, Any]) -> dict[str, Any]:
    """All texts of one conversation, or why there are none."""
    try:
        template = compile_template(request["template"])
        return {"texts": [_render(template, request["variables"], conversation, *cut) for cut in conversation["cuts"]]}
    except Refusal as error:
        return {"refusal": str(error)}
    except FAULTS as error:
        return {"fault": _describe(error)}
    except REFUSALS as error:
        return {"refusal": _describe(error)}


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}".removesuffix(": ")


def _render(
    template: jinja2.Template, variables: dict[str, Any], conversation: dict[str, Any], num_messages: int,
    is_prompt: bool,
) -> str:  # fmt: skip
    pieces, room = [], conversation["max_characters"]
    for piece in template.generate(
        messages=conversation["messages"][:num_messages],
        tools=conversation["tools"],
        documents=None,
        add_generation_prompt=is_prompt,
        **variables,
    ):
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            raise TooLongError(f"more than {conversation['max_characters']} characters")
    return "".join(pieces)


def limit_process() -> None:
    """No more than 1 GiB, no file, no core dump, whatever the template does."""
    for kind, amount in ((resource.RLIMIT_AS, _MAX_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        # macOS has no limit on address space
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (amount, amount))


def limit_processor(seconds: float) -> None:
    """The operating system ends this process after `seconds` more of processor time, even if the parent is gone."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    # a hard limit that is lower still holds
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime + seconds) + 2, hard))


def main() -> None:
    limit_process()
    output = sys.stdout.buffer
    output.write(b"ready\n")
    output.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit_processor(request["seconds"])
        for conversation in request["conversations"]:
            output.write(json.dumps(answer(request, conversation)).encode("ascii") + b"\n")
            output.flush()


if __name__ == "__main__":
    main()
