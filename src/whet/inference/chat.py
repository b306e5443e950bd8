"""A conversation with one model: what was said stays in its window, and answers arrive while they are written."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Literal

from whet.data.templates import prompt_ids
from whet.errors import DataError
from whet.inference.decoding import Decoding
from whet.inference.engine import Completion, Ended, stream
from whet.inference.respond import Responder
from whet.inference.text import answer_decoder
from whet.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What one answer took."""

    num_prompt_tokens: int
    num_new_tokens: int
    first_token_seconds: float
    """from the question to its first token: reading the prompt and one step"""
    seconds: float
    """all of it; what another model computed meanwhile is not counted"""
    ended: Ended | Literal["interrupted"]
    num_forgotten: int
    """earlier questions that left the window with this one"""

    @property
    def tokens_per_second(self) -> float:
        """After the first token; 0 where there was no other."""
        rest = self.seconds - self.first_token_seconds
        return (self.num_new_tokens - 1) / rest if self.num_new_tokens > 1 and rest > 0 else 0.0


@dataclass(slots=True, kw_only=True)
class Conversation:
    """Questions and answers so far. The first turns leave it when the window is full, the system message never does."""

    responder: Responder
    decoding: Decoding
    system: str | None
    """system message; an empty one stands for none"""
    turns: list[Message] = field(default_factory=list)
    """question, answer, question, answer, ...: all that was said, also what the model no longer sees"""
    last: Exchange | None = None
    _num_hidden: int = 0
    """turns at the beginning that no longer fit"""

    @property
    def remembers(self) -> bool:
        """Whether earlier turns are shown to the model: a plain template has room for one question alone."""
        return self.responder.template.kind == "chat"

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.turns, self.last, self._num_hidden = [], None, 0

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer piece by piece, one for each token. Closed early, what was written so far counts as the answer.

        DataError where the question alone does not fit.
        """
        clock = time.perf_counter
        started = clock()
        hidden_before = self._num_hidden
        prompt = self._prompt(question)
        pieces = stream(
            self.responder.loaded.model,
            prompt,
            stop_ids=self.responder.template.end_ids,
            decoding=replace(self.decoding, max_total_tokens=self.responder.context),
            decode=answer_decoder(self.responder.loaded.tokenizer),
            key=f"{len(self.turns)} {question}",
        )
        written: list[str] = []
        spent = first = 0.0
        ended: Ended | Literal["interrupted"] = "interrupted"
        try:
            for piece in pieces:
                spent += clock() - started
                if isinstance(piece, Completion):
                    ended = piece.ended
                else:
                    first = first or spent
                    written.append(piece)
                    yield piece
                started = clock()
        finally:
            if answer := "".join(written):
                self.turns += [Message(role="user", content=question), Message(role="assistant", content=answer)]
            self.last = Exchange(
                num_prompt_tokens=len(prompt),
                num_new_tokens=len(written),
                first_token_seconds=first,
                seconds=spent,
                ended=ended,
                num_forgotten=(self._num_hidden - hidden_before) // 2,
            )

    def _prompt(self, question: str) -> list[int]:
        """Ids of system message, the turns that fit, and the question; half of the window at most is kept free."""
        context = self.responder.context
        room = min(self.decoding.max_new_tokens, context // 2)
        ids = self._ids(question)
        while len(ids) + room > context and self.remembers and self._num_hidden < len(self.turns):
            self._num_hidden += 2
            ids = self._ids(question)
        if len(ids) >= context:
            raise DataError(
                f"the question has {len(ids):,} tokens, the model reads {context:,} with the answer",
                mend="shorten it, or the system message",
            )
        return ids

    def _ids(self, question: str) -> list[int]:
        head = [Message(role="system", content=self.system)] if self.system else []
        seen = self.turns[self._num_hidden :] if self.remembers else []
        asked = Message(role="user", content=question)
        return prompt_ids(self.responder.template, [*head, *seen, asked], origin="this question")
