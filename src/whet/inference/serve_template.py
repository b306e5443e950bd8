"""What whet writes for a conversation, as one chat template that another server renders.

A server knows the tokenizer's chat template and nothing of the recipe: the plain form around a question, the system
message that all training rows had, Nemotron's reasoning switch, a date that does not change. All of it goes into the
template, and `check_served` compares the tokens of both before anything is served.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet.data.templates import Template, build_template, prompt_ids
from whet.data.templates.families import REASONING_SWITCH
from whet.data.templates.template import TEMPLATE_DATE
from whet.errors import RecipeError
from whet.types import Message

_USER = Message(role="user", content="Why is 12 + 7 = 19?")
_OTHERS = (
    Message(role="user", content="  \u00e9t\u00e9:\n\n\tone {{ two }} {% three %} 'four' "),
    Message(role="user", content="Answer: "),
)
_SYSTEM = Message(role="system", content="Be brief.")
_ANSWER = Message(role="assistant", content="Because.\n\nSo it is.")

_REFUSE_TURNS = (
    "{%- for message in messages -%}{%- if message['role'] not in ['system', 'user'] -%}"
    "{{- raise_exception('this model was trained on a question and its answer: send one user message, no history') -}}"
    "{%- endif -%}{%- endfor -%}"
)


def served_chat_template(template: Template, system: str | None) -> str:
    """Jinja text for `tokenizer.chat_template`. `system`: what a conversation without a system message begins with."""
    head = _default_system(system) if system else ""
    if template.kind == "plain":
        return head + _plain(template)
    assert template.chat is not None
    if template.reasoning is not None:
        head += _reasoning(f"{REASONING_SWITCH} {template.reasoning}")
    if "date_string" in template.chat.text:
        date = _quoted(TEMPLATE_DATE)
        head += f"{{%- if date_string is not defined -%}}{{%- set date_string = {date} -%}}{{%- endif -%}}"
    return head + template.chat.text


def _default_system(system: str) -> str:
    return (
        "{%- if not messages or messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{{'role': 'system', 'content': {_quoted(system)}}}] + messages -%}}{{%- endif -%}}"
    )


def _reasoning(switch: str) -> str:
    """The switch as the first line of the system message, unless the request switches itself."""
    first_line = "messages[0]['content'].strip().split('\\n')[0].lower()"
    with_switch = f"({_quoted(switch)} ~ '\\n' ~ messages[0]['content']).rstrip('\\n')"
    return (
        "{%- if not messages or messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{{'role': 'system', 'content': {_quoted(switch)}}}] + messages -%}}"
        f"{{%- elif not {first_line}.startswith({_quoted(REASONING_SWITCH)}) -%}}"
        f"{{%- set messages = [{{'role': 'system', 'content': {with_switch}}}] + messages[1:] -%}}{{%- endif -%}}"
    )


def _plain(template: Template) -> str:
    before, after = template.prompt or ("", "")
    begin = "".join(template.tokenizer.convert_ids_to_tokens(list(template.head_ids)))
    asked = f"{_quoted(before)} ~ message['content'] ~ {_quoted(after)}"
    return (
        f"{_REFUSE_TURNS}{{%- set ns = namespace(parts=[]) -%}}"
        "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
        f"{{%- set ns.parts = ns.parts + [{asked}] -%}}{{%- else -%}}"
        "{%- set ns.parts = ns.parts + [message['content']] -%}{%- endif -%}{%- endfor -%}"
        f"{{{{- {_quoted(begin)} ~ (ns.parts | join('\\n\\n')).rstrip(' \\t') -}}}}"
    )


def _quoted(text: str) -> str:
    """A string literal of Jinja; JSON would not do, whose surrogate pairs Jinja does not join."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def check_served(served: PreTrainedTokenizerBase, template: Template, system: str | None) -> None:
    """RecipeError unless the tokenizer as a server loads it writes the tokens that whet writes for a request."""
    theirs = build_template(served, "chat", sorted(template.end_ids))
    default = [Message(role="system", content=system)] if system else []
    for asked in _requests(template):
        own = asked if asked[0].role == "system" else [*default, *asked]
        if prompt_ids(theirs, asked) != prompt_ids(template, own):
            raise RecipeError(
                "a server that renders this model's chat template would not ask as whet asked in training "
                f"(the request {asked[-1].content!r} after {len(asked) - 1} messages differs)",
                mend="use whet generate or whet chat, or choose another `data.chat_template`",
            )


def _requests(template: Template) -> Sequence[list[Message]]:
    single = [[each] for each in (_USER, *_OTHERS)]
    if template.kind == "plain":
        return [*single, [_SYSTEM, _USER]]
    return [*single, [_SYSTEM, _USER], [_USER, _ANSWER, _OTHERS[0]], [_SYSTEM, _USER, _ANSWER, _USER]]
