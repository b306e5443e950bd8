"""What must hold for every sample before training; a violation names the row and stops the run.

Each sample teaches something; the last taught token is one that generation stops at; there is at most one
beginning-of-sequence token; the taught ids spell the answer; and the ids that generation would be prompted with are
exactly those that training puts before the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.data import templates
from whet.errors import DataError
from whet.types import Example, Message, TokenizedSample

_REPORT = "please report this row: the tokenizer or its template does something that whet does not expect"


class SampleChecks:
    """The checks for one template."""

    def __init__(self, template: templates.Template) -> None:
        self._template = template
        self._bos = template.tokenizer.bos_token_id
        # ChatML opens every turn with the token that SmolLM2's tokenizer calls its beginning of sequence
        self._bos_opens_turns = template.kind == "chat" and self._count_bos_of_two_turns() > 1

    def _count_bos_of_two_turns(self) -> int:
        turns = (
            Message(role="user", content="a"), Message(role="assistant", content="b"), Message(role="user", content="c")
        )  # fmt: skip
        return templates.prompt_ids(self._template, turns).count(self._bos)

    def check(self, examples: Sequence[Example], samples: Sequence[TokenizedSample | DataError]) -> None:
        """Raise DataError for the first sample that breaks a rule."""
        pairs = [(e, s) for e, s in zip(examples, samples, strict=True) if not isinstance(s, DataError)]
        for example, sample in pairs:
            self._check_end(example, sample)
            self._check_beginning(example, sample)
            self._check_spelling(example, sample)
        self._check_prompts(pairs)

    def _check_end(self, example: Example, sample: TokenizedSample) -> None:
        if sample.num_taught == 0:
            raise DataError(
                "no token of this row is taught", where=example.origin, mend="give it an assistant turn to learn"
            )
        last_taught = int(np.flatnonzero(sample.taught)[-1])
        if int(sample.ids[last_taught]) not in self._template.end_ids:
            raise DataError("the last taught token does not end the turn", where=example.origin, mend=_REPORT)

    def _check_beginning(self, example: Example, sample: TokenizedSample) -> None:
        num_bos = int((sample.ids == self._bos).sum()) if self._bos is not None else 0
        is_doubled = num_bos > 1 and sample.ids[0] == sample.ids[1] == self._bos
        if is_doubled or (num_bos > 1 and not self._bos_opens_turns and self._bos not in self._template.end_ids):
            raise DataError(f"has {num_bos} beginning-of-sequence tokens", where=example.origin,
                            mend="remove the token's text from the chat template")  # fmt: skip

    def _check_spelling(self, example: Example, sample: TokenizedSample) -> None:
        answers = [message for message in example.messages if message.is_taught]
        for answer, span in zip(answers, _taught_spans(self._template, sample), strict=True):
            spelled = self._template.tokenizer.decode(span.tolist(), clean_up_tokenization_spaces=False)
            matches = answer.content.strip() in spelled if answer.extra else answer.content.strip() == spelled.strip()
            if not matches:
                raise DataError(
                    f"the taught tokens spell {spelled[:60]!r}, the answer is {answer.content[:60]!r}",
                    where=example.origin,
                    mend="this tokenizer or template cannot write the answer: change the row, or leave it out",
                )

    def _check_prompts(self, pairs: Sequence[tuple[Example, TokenizedSample]]) -> None:
        asked = [(e, s) for e, s in pairs if len(e.messages) > 1 and e.messages[-1].role == "assistant"]
        prompts = templates.prompts(self._template, [example for example, _ in asked])
        for (example, sample), prompt in zip(asked, prompts, strict=True):
            before = sample.ids[: len(prompt)].tolist()
            answer_is_taught = sample.taught[len(prompt)] if len(prompt) < sample.num_tokens else False
            if before != prompt or bool(answer_is_taught) != example.messages[-1].is_taught:
                raise DataError(
                    "the prompt of serving is not what training puts before the answer", where=example.origin,
                    mend=_REPORT,
                )  # fmt: skip


def _taught_spans(template: templates.Template, sample: TokenizedSample) -> list[np.ndarray]:
    """The ids of each taught answer without the token that ends it; answers that touch are told apart by that token."""
    spans, start = [], None
    for position in np.flatnonzero(sample.taught).tolist():
        if start is None:
            start = position
        if int(sample.ids[position]) in template.end_ids:
            spans.append(sample.ids[start:position])
            start = None
    return spans
