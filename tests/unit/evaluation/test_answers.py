"""An answer is what stands behind the prompt's tokens, from its first letter on."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_tokenizers
from tiny import IDENTITY, tiny_llama
from tiny_data import make_example

from whet.data.datasets import judge
from whet.data.templates import build_template, prompts
from whet.evaluation import answers
from whet.evaluation.scoring import answered_rows, score_rows
from whet.inference.decoding import Decoding
from whet.inference.engine import Completion
from whet.models.load import LoadedModel

FIRST, SECOND = "A loan that is traded.", "A part of a firm."
ROLLING = f" {FIRST}\n\nQuestion: What is a share?\n\nAnswer: {SECOND}"


@pytest.fixture
def written(monkeypatch):
    """Example and generation of a model that goes on with a question of its own."""
    tokenizer = tiny_tokenizers.build_chatml()
    loaded = LoadedModel(
        model=tiny_llama(), tokenizer=tokenizer, identity=IDENTITY, folder=Path("tiny"),
        compute_dtype=next(tiny_llama().parameters()).dtype, stop_ids=(0, 2),
    )  # fmt: skip
    example = make_example("What is a bond? Answer: it is", FIRST, golds=(FIRST,))
    template = build_template(tokenizer, "plain", (0, 2), prompt="Question: {question}\n\nAnswer:")

    def write(model, asked, **_):
        return [Completion(ids=tuple(tokenizer(ROLLING)["input_ids"]), ended="length", text=ROLLING) for _ in asked]

    monkeypatch.setattr(answers, "generate", write)
    decoding = Decoding(max_new_tokens=50)
    (generation,) = answers.write([example], prompts(template, [example]), loaded, decoding, stop_ids=frozenset((0, 2)))
    return example, generation


def test_an_answer_is_cut_behind_the_prompt_and_not_at_its_last_marker(written):
    example, generation = written
    assert generation.text == ROLLING
    assert generation.prompt.endswith("Answer:") and "What is a bond?" in generation.prompt
    judgement = judge(example, generation.text)
    assert judgement.extracted == FIRST and judgement.is_correct


def test_what_is_scored_is_all_of_it_so_that_rolling_on_costs(written):
    example, generation = written
    rows = answered_rows([example], [generation], [judge(example, generation.text)])
    scores = score_rows(("token_f1", "answer_length", "answer_accuracy", "stop_rate"), rows)
    assert scores["answer_length"] == (float(len(ROLLING.split())),)
    # in SQuAD's form the gold has 4 words, of which all are among the answer's 12
    assert scores["token_f1"] == (pytest.approx(2 * 4 / (4 + 12)),)
    assert (scores["answer_accuracy"], scores["stop_rate"]) == ((1.0,), (0.0,))
