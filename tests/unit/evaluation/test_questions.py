"""What a set is asked follows from the recipe's entry, and the key of its answers from all that decides them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_tokenizers
from tiny_data import make_example

from whet.data.templates import build_template
from whet.evaluation.questions import Questions, answer_key, render_questions
from whet.recipe.schema import Evaluate, Source

EXAMPLES = [make_example(f"How many are {n} and {n + 1}?", f"{2 * n + 1}", name=str(n)) for n in range(4)]
ENTRY = Evaluate(name="sums", source=Source(source="rows.jsonl"), max_new_tokens=30)


@pytest.fixture(scope="module")
def template():
    return build_template(tiny_tokenizers.build_chatml(), "chat", (0, 2))


def ask(template, entry: Evaluate = ENTRY, *, context: int = 1000, seed: int = 5, examples=EXAMPLES) -> Questions:
    return render_questions(entry, examples, template, context=context, seed=seed)


def test_the_recipe_s_decoding_reaches_the_answers(template):
    entry = replace(ENTRY, temperature=0.7, top_p=0.9, stop=("\n\nQuestion:",), batch_rows=3)
    decoding = ask(template, entry).decoding
    assert (decoding.temperature, decoding.top_p, decoding.seed) == (0.7, 0.9, 5)
    assert (decoding.stop_strings, decoding.batch_rows, decoding.max_new_tokens) == (("\n\nQuestion:",), 3, 30)
    assert decoding.max_total_tokens is None
    assert ask(template, entry, context=32).decoding.max_total_tokens == 32


def changed(entry: Evaluate, name: str) -> Evaluate:
    values = {
        "temperature": 0.5, "stop": ("\n",), "max_new_tokens": 31, "metrics": ("loss", "token_f1"),
        "judge": "math_verify", "role": "guard", "max_seconds": 9.0, "every": 10, "max_rows": 2, "batch_rows": 2,
    }  # fmt: skip
    return replace(entry, **{name: values[name]})


@pytest.mark.parametrize("name", ["temperature", "stop", "max_new_tokens"])
def test_what_decides_the_answers_is_in_their_key(template, name):
    assert answer_key(ask(template), "w") != answer_key(ask(template, changed(ENTRY, name)), "w")


@pytest.mark.parametrize("name", ["metrics", "judge", "role", "max_seconds", "every", "max_rows", "batch_rows"])
def test_what_only_judges_or_limits_them_is_not(template, name):
    assert answer_key(ask(template), "w") == answer_key(ask(template, changed(ENTRY, name)), "w")


def test_the_seed_matters_where_answers_are_drawn_and_nowhere_else(template):
    drawn = replace(ENTRY, temperature=1.0)
    assert answer_key(ask(template, drawn, seed=1), "w") != answer_key(ask(template, drawn, seed=2), "w")
    assert answer_key(ask(template, seed=1), "w") == answer_key(ask(template, seed=2), "w")


def test_another_judge_changes_task_and_golds_and_not_the_question(template):
    formula = make_example("Half of three?", "It is so.\nThe answer is: \\frac{3}{2}", name="f")
    own, symbolic = (ask(template, replace(ENTRY, judge=judge), examples=[formula]) for judge in ("own", "math_verify"))
    assert own.examples == (formula,)
    assert (symbolic.examples[0].task, symbolic.examples[0].golds) == ("symbolic_answer", ("\\frac{3}{2}",))
    assert symbolic.prompts == own.prompts and symbolic.fingerprint() == own.fingerprint()
