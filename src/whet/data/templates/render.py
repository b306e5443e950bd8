"""A conversation as text, cut before each answer: by the chat template, or plain prompt and answer.

Where an answer begins is never searched for in text: the conversation is rendered up to each answer with the
generation prompt, and the longer rendering must begin with the shorter one.

Control tokens written in a message stay text: characters of a private-use plane stand in for them while the template
runs, so that `<|im_end|>` in a question never becomes the control token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from whet.data.templates import tools
from whet.data.templates.draft import Conversation, Draft, make_draft
from whet.data.templates.plain import write_plain
from whet.data.templates.sandbox import Job, render_jobs
from whet.data.templates.template import Rendered, Template
from whet.errors import DataError
from whet.types import Example, Message

_TEXTS_PER_REQUEST = 200


def render(
    template: Template, messages: Sequence[Message], *, origin: str, has_answer: bool = True, tools: str = ""
) -> Rendered:
    """The conversation as text, cut before each answer; without `has_answer` a last cut where it waits for one.

    Raises DataError if the template refuses the conversation or writes its beginning differently later on.
    """
    conversation = Conversation(messages=tuple(messages), tools=tools, origin=origin, has_answer=has_answer)
    (result,) = render_conversations(template, [conversation])
    if isinstance(result, DataError):
        raise result
    return result


def render_many(template: Template, examples: Sequence[Example]) -> list[Rendered | DataError]:
    """Each row as text for training, or the error that names it and says why it cannot be rendered.

    Raises RecipeError as `render_conversations` does.
    """
    return render_conversations(
        template, [Conversation(messages=e.messages, tools=e.tools, origin=e.origin) for e in examples]
    )


def render_conversations(template: Template, conversations: Sequence[Conversation]) -> list[Rendered | DataError]:
    """Each conversation as text, or the error that names it and says why it cannot be rendered.

    Raises RecipeError if the chat template itself cannot be used: too slow, too long, or reaching for what it must not.
    """
    results: dict[int, Rendered | DataError] = {}
    drafts: dict[int, Draft] = {}
    for index, conversation in enumerate(conversations):
        try:
            drafts[index] = make_draft(template, conversation)
        except DataError as error:
            results[index] = error
    write = _write_chat if template.kind == "chat" else write_plain
    for (index, draft), written in zip(drafts.items(), write(template, list(drafts.values())), strict=True):
        try:
            results[index] = written if isinstance(written, DataError) else _finish(draft, written)
        except DataError as error:
            results[index] = error
    return [results[index] for index in range(len(conversations))]


def _write_chat(template: Template, drafts: list[Draft]) -> list[list[str] | DataError]:
    answers = _run_template(template, drafts)
    # most templates take the arguments of a call as an object, some as JSON text
    again = [
        index
        for index, (draft, answer) in enumerate(zip(drafts, answers, strict=True))
        if draft.has_calls and (isinstance(answer, str) or tools.shows_python(answer[-1], draft.messages))
    ]
    with_text = [replace(drafts[i], messages=tools.with_arguments_as_text(drafts[i].messages)) for i in again]
    for index, answer in zip(again, _run_template(template, with_text), strict=True):
        if not (isinstance(answer, str) and isinstance(answers[index], str)):
            answers[index] = answer
    return [
        _refuse(draft, answer) if isinstance(answer, str) else answer
        for draft, answer in zip(drafts, answers, strict=True)
    ]


def _refuse(draft: Draft, why: str) -> DataError:
    return DataError(
        f"the chat template refuses this conversation: {why}",
        where=draft.origin,
        mend="change the order or the roles of its turns, or use `data.template: plain`",
    )


def _run_template(template: Template, drafts: Sequence[Draft]) -> list[list[str] | str]:
    """Per draft its texts, or why the template refuses it."""
    answers: dict[int, list[str] | str] = {}
    for chat, has_tools in ((template.chat, False), (template.chat_with_tools, True)):
        assert chat is not None
        jobs = {index: _job(draft) for index, draft in enumerate(drafts) if bool(draft.tools) == has_tools}
        for indices in _split_into_requests(jobs):
            rendered = render_jobs(chat, [jobs[index] for index in indices])
            answers.update(zip(indices, rendered, strict=True))
    return [answers[index] for index in range(len(drafts))]


def _job(draft: Draft) -> Job:
    num_messages = len(draft.messages)
    ends = [*draft.answers, num_messages]
    cuts = tuple((end, end < num_messages or not draft.has_answer) for end in ends)
    return Job(
        messages=draft.messages, tools=draft.tools, cuts=cuts, num_characters=draft.num_characters, origin=draft.origin
    )


def _split_into_requests(jobs: dict[int, Job]) -> Iterator[list[int]]:
    indices: list[int] = []
    num_texts = 0
    for index, job in jobs.items():
        if indices and num_texts + len(job.cuts) > _TEXTS_PER_REQUEST:
            yield indices
            indices, num_texts = [], 0
        indices.append(index)
        num_texts += len(job.cuts)
    if indices:
        yield indices


def _finish(draft: Draft, texts: list[str]) -> Rendered:
    """Raises DataError where the text does not hold what the conversation says."""
    for shorter, longer in pairwise(texts):
        if not longer.startswith(shorter):
            raise DataError(
                "the chat template writes earlier turns differently when later ones follow",
                where=draft.origin,
                mend="split the conversation into rows with one answer each, or use `data.template: plain`",
            )
    for answer, shorter, longer in zip(draft.answers, texts, texts[1:], strict=False):
        if draft.messages[answer]["content"].strip() not in longer[len(shorter) :]:
            raise DataError(
                "the chat template changes the text of an answer",
                where=draft.origin,
                mend="write the answer as the template would, or use `data.template: plain`",
            )
    tools.check_names(draft.tools, draft.messages, texts[-1], origin=draft.origin)
    return Rendered(texts=tuple(texts), taught=draft.taught, stand_ins=draft.stand_ins, origin=draft.origin)
