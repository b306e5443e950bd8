"""Prompt and answer one behind the other, without turns: `data.template: plain`."""

from __future__ import annotations

from whet.data.templates.draft import Draft
from whet.data.templates.template import Template
from whet.errors import DataError


def write_plain(template: Template, drafts: list[Draft]) -> list[list[str] | DataError]:
    """Per conversation the prompt, and prompt with answer; or why it has no plain form."""
    results: list[list[str] | DataError] = []
    for draft in drafts:
        why = _misfit(template, draft)
        if why is None:
            results.append(_write(template, draft))
        else:
            what, mend = why
            results.append(DataError(what, where=draft.origin, mend=mend))
    return results


def _misfit(template: Template, draft: Draft) -> tuple[str, str] | None:
    if draft.tools or draft.has_calls:
        return "the plain template has no place for tools", "use `data.template: chat`, or remove them"
    roles = [message["role"] for message in draft.messages]
    prompt_roles = roles[:-1] if draft.has_answer else roles
    if "tool" in roles or "assistant" in prompt_roles or (draft.has_answer and roles[-1:] != ["assistant"]):
        return (
            f"the plain template takes one prompt and one answer, this row has {len(roles)} turns",
            "use `data.template: chat`",
        )
    if template.prompt and prompt_roles.count("user") != 1:
        return (
            f"`data.prompt` goes around one question, this row has {prompt_roles.count('user')}",
            "remove `data.prompt` for rows that are text alone, or use `data.template: chat`",
        )
    return None


def _write(template: Template, draft: Draft) -> list[str]:
    """Spaces that end the prompt move to the answer (`"A: " + "4"` would give the prompt a token that no running text
    has). Where the recipe names no prompt, a line break separates the two if nothing else does."""
    before, after = template.prompt or ("", "")
    prompt = "\n\n".join(
        before + message["content"] + after if message["role"] == "user" else message["content"]
        for message in draft.messages
        if message["role"] != "assistant"
    )
    bare_prompt = prompt.rstrip(" \t")
    if not draft.has_answer:
        return [bare_prompt]
    answer = draft.messages[-1]["content"]
    gap = prompt[len(bare_prompt) :]
    if template.prompt is None and prompt and not gap and not prompt.endswith("\n") and not answer[:1].isspace():
        gap = "\n"
    return [bare_prompt, bare_prompt + gap + answer]
