"""A model's answers to a set, portion by portion: each one judged and on the disk before the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from whet.data.datasets import judge
from whet.evaluation.journal import Answers, Journal
from whet.evaluation.questions import Questions
from whet.evaluation.time_box import TimeBox
from whet.inference.decoding import Decoding
from whet.inference.engine import Completion, generate, warn_of_fewer_rows
from whet.inference.text import answer_decoder, prompt_text
from whet.models.load import LoadedModel
from whet.types import Example, Generation

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from whet.evaluation.writers import Writer

Progress = Callable[[int, int], None]
"""told (rows answered, rows of the set)"""

PORTION_BATCHES = 2
"""Batches that are answered together: finished rows make room for waiting ones, and a crash costs at most these."""


def answer_rest(
    known: Answers,
    questions: Questions,
    writer: Writer,
    journal: Journal,
    *,
    box: TimeBox,
    num_rows: int,
    progress: Progress,
    also: Callable[[int], object] = lambda _num_answered: None,
) -> Answers:
    """`known` answers to the first rows, continued up to row `num_rows` or as far as `box` allows.

    `also` is told after each portion how many rows are answered, and its time counts like that of the answers.
    """
    answers = list(known)
    portion = PORTION_BATCHES * questions.decoding.batch_rows * writer.num_at_once
    while len(answers) < num_rows:
        start = len(answers)
        # portions begin at the same rows whether or not an earlier process answered some of them
        end = start + box.next_rows(min(num_rows - start, portion - start % portion), portion)
        if end == start:
            break
        started = time.monotonic()
        examples = questions.examples[start:end]
        generations = writer.write(questions, range(start, end), progress=partial(_tell, progress, start, num_rows))
        new = _judge(examples, generations)
        journal.append(new)
        answers += new
        also(end)
        box.measured(end - start, time.monotonic() - started)
    return answers


def _judge(examples: Sequence[Example], generations: Sequence[Generation]) -> Answers:
    return [
        (generation, judge(example, generation.text)) for example, generation in zip(examples, generations, strict=True)
    ]


def _tell(progress: Progress, start: int, num_rows: int, num_done: int) -> None:
    progress(start + num_done, num_rows)


def write(
    examples: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    loaded: LoadedModel,
    decoding: Decoding,
    *,
    stop_ids: frozenset[int],
    progress: Callable[[int], None] = lambda _num_done: None,
    may_halve: bool = True,
    on_fewer_rows: Callable[[int], None] = warn_of_fewer_rows,
) -> tuple[Generation, ...]:
    """What the model answers to each example; what an example draws when sampling is decided by its id.

    `seconds` of each is its share of the time that all took. `may_halve` and `on_fewer_rows` are `generate`'s.
    """
    return as_generations(
        examples,
        prompts,
        loaded.tokenizer,
        lambda: generate(
            loaded.model,
            prompts,
            stop_ids=stop_ids,
            decoding=decoding,
            keys=[example.id for example in examples],
            decode=answer_decoder(loaded.tokenizer),
            on_finished=lambda _index, num_finished: progress(num_finished),
            may_halve=may_halve,
            on_fewer_rows=on_fewer_rows,
        ),
    )


def as_generations(
    examples: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    complete: Callable[[], Sequence[Completion]],
) -> tuple[Generation, ...]:
    """What `complete` writes to the prompts of these examples, timed."""
    started = time.monotonic()
    completions = complete()
    share = (time.monotonic() - started) / max(1, len(examples))
    return tuple(
        Generation(
            example_id=example.id,
            prompt=prompt_text(tokenizer, prompt),
            text=completion.text or "",
            num_new_tokens=len(completion.ids),
            stopped=completion.ended,
            seconds=share,
        )
        for example, prompt, completion in zip(examples, prompts, completions, strict=True)
    )


def judge_again(generations: Sequence[Generation], questions: Questions, loaded: LoadedModel) -> Answers:
    """Kept generations of the first rows with their prompts and a judgement of now; none if they are of other rows."""
    examples = questions.examples[: len(generations)]
    if [example.id for example in examples] != [generation.example_id for generation in generations]:
        return []
    prompts = [prompt_text(loaded.tokenizer, prompt) for prompt in questions.prompts[: len(generations)]]
    asked = [replace(generation, prompt=prompt) for generation, prompt in zip(generations, prompts, strict=True)]
    return _judge(examples, asked)
