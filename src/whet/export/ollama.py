"""The export `ollama`: a GGUF file with a Modelfile whose template writes what the model was trained on.

Ollama's templates are Go's, so a chat template cannot be taken over as it is. Its form is read off a few conversations
that whet renders, and is used only if it then writes all of them alike; everything else is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet.data.templates import Template, build_template, render, template_for
from whet.errors import DataError, RecipeError
from whet.export.gguf_export import MODEL, export_model
from whet.export.request import Request
from whet.export.source import Source
from whet.recipe import load_recipe
from whet.types import Message

MODELFILE = "Modelfile"
_QUOTES = '"""'

_USER = Message(role="user", content="Why?")
_SYSTEM = Message(role="system", content="Be brief.")
_PADDED = Message(role="user", content=" Why? ")
_ANSWER = Message(role="assistant", content="Because.\n\nSo it is.")
_CONVERSATIONS = ((_USER,), (_SYSTEM, _USER), (_USER, _ANSWER, _USER), (_SYSTEM, _USER, _ANSWER, _USER))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """A conversation written turn by turn: `opening` role `heading` content `closing`; then an opened answer."""

    opening: str
    heading: str
    closing: str
    lead: str = ""
    """before the first turn"""
    default_system: str | None = None
    """system message of a conversation that has none"""
    system_prefix: str | None = None
    """beginning of a system turn that is always there; None: there is one only where the conversation has one"""

    def write(self, messages: Sequence[Message]) -> str:
        """The text that the answer to `messages` follows."""
        turns = [(message.role, message.content) for message in messages]
        if self.system_prefix is not None:
            said = "\n\n".join(content for role, content in turns if role == "system")
            turns = [("system", self.system_prefix + said), *[turn for turn in turns if turn[0] != "system"]]
        elif self.default_system is not None and turns[0][0] != "system":
            turns = [("system", self.default_system), *turns]
        return self.lead + "".join(self._turn(*turn) for turn in turns) + self._opened("assistant")

    def go_template(self) -> str:
        """The same as a template of Ollama. `.System` holds all system messages, `.Messages` the whole conversation."""
        opening, heading, closing = map(_go_text, (self.opening, self.heading, self.closing))
        turn = f"{opening}{{{{ .Role }}}}{heading}{{{{ .Content }}}}{closing}"
        head = _go_text(self.lead)
        if self.system_prefix is not None:
            head += f"{opening}system{heading}{_go_text(self.system_prefix)}{{{{ .System }}}}{closing}"
            turn = f'{{{{ if ne .Role "system" }}}}{turn}{{{{ end }}}}'
        return f"{head}{{{{ range .Messages }}}}{turn}{{{{ end }}}}{opening}assistant{heading}"

    def _turn(self, role: str, content: str) -> str:
        return self._opened(role) + content + self.closing

    def _opened(self, role: str) -> str:
        return self.opening + role + self.heading


_FORMS = (
    Turns(opening="<|im_start|>", heading="\n", closing="<|im_end|>\n"),
    Turns(opening="<|start_header_id|>", heading="<|end_header_id|>\n\n", closing="<|eot_id|>"),
)
"""ChatML (SmolLM2) and Llama 3."""


def export_ollama(request: Request) -> Path:
    """Write the merged model as `model.gguf` with a Modelfile; returns the folder, which did not exist before.

    RecipeError where the chat template has no equal among Ollama's. `dtype` as of `export_gguf`.
    """

    def add_modelfile(folder: Path, source: Source) -> None:
        (folder / MODELFILE).write_text(modelfile(source), encoding="utf-8")
        request.say(f"ollama create {source.folder.resolve().name.lower()} -f {request.target('ollama') / MODELFILE}")

    return export_model(request, "ollama", add_modelfile)


def modelfile(source: Source) -> str:
    """FROM, TEMPLATE, SYSTEM where the template has a default one, and a stop parameter for every stop token."""
    path = source.folder / "recipe.yaml"
    tokenizer = source.tokenizer
    if path.is_file():
        template = template_for(tokenizer, load_recipe(path).data, source.stop_ids)
    else:
        template = build_template(tokenizer, "chat" if tokenizer.chat_template else "plain", source.stop_ids)
    lines = [f"FROM ./{MODEL}"]
    if template.kind == "chat":
        turns = find_turns(template, tokenizer)
        if not _write(template, (_PADDED,)).endswith(turns.write((_PADDED,))):
            lines.append("# The model was trained on messages without white space around them; Ollama does not trim.")
        lines.append(f"TEMPLATE {_quoted(turns.go_template())}")
        if turns.default_system is not None:
            lines.append(f"SYSTEM {_quoted(turns.default_system)}")
    else:
        lines.append(f"TEMPLATE {_quoted(plain_template(template))}")
    stops = [str(tokenizer.convert_ids_to_tokens(index)) for index in source.stop_ids]
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    return "\n".join(lines) + "\n"


def plain_template(template: Template) -> str:
    """Prompt without turns; space that ends it is the answer's."""
    before, after = (_go_text(text) for text in template.prompt or ("", ""))
    return f"{{{{ if .System }}}}{{{{ .System }}}}\n\n{{{{ end }}}}{before}{{{{ .Prompt }}}}{after}".rstrip(" \t")


def find_turns(template: Template, tokenizer: Any) -> Turns:
    """The form in which `template` writes conversations; RecipeError when it is none that Ollama can be told.

    Left out is what Ollama puts before every text by itself: the begin token, where the tokenizer adds one.
    """
    try:
        texts = [_write(template, messages) for messages in _CONVERSATIONS]
    except DataError as error:
        raise _refusal(f"it refuses a plain conversation ({error.what})") from error
    begin = str(tokenizer.bos_token or "")
    if begin and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        if not texts[0].startswith(begin):
            raise _refusal("Ollama would begin it with the tokenizer's begin token, which it does not write")
        texts = [text.removeprefix(begin) for text in texts]
    for form in _FORMS:
        for lead in ("", begin):
            turns = _with_system(replace(form, lead=lead), texts)
            if [turns.write(messages) for messages in _CONVERSATIONS] == texts:
                return turns
    raise _refusal("it is neither ChatML nor Llama 3's")


def _write(template: Template, messages: Sequence[Message]) -> str:
    return render(template, messages, origin="a conversation of the Ollama export", has_answer=False).texts[-1]


def _with_system(form: Turns, texts: Sequence[str]) -> Turns:
    """`form` with the system turn that the conversation without and the one with a system message show."""
    start = form.lead + form.opening + "system" + form.heading
    alone, asked = texts[0], texts[1]
    if not alone.startswith(start):
        return form
    default = alone.removeprefix(start).partition(form.closing)[0]
    said = asked.removeprefix(start).partition(form.closing)[0]
    if said == default + _SYSTEM.content:
        return replace(form, system_prefix=default)
    return replace(form, default_system=default)


def _go_text(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    if _QUOTES in text or text.endswith('"'):
        raise _refusal("it holds quotation marks that a Modelfile cannot quote")
    return f"{_QUOTES}{text}{_QUOTES}"


def _refusal(why: str) -> RecipeError:
    return RecipeError(
        f"the chat template cannot be written for Ollama: {why}",
        mend="export with --to gguf and write the Modelfile's TEMPLATE by hand",
    )
