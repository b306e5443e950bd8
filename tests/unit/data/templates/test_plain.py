"""Prompts of the recipe around questions, text without a prompt, and what has no plain form."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet.data import templates
from whet.errors import DataError, RecipeError
from whet.types import Message

FIQA = (
    "You are a helpful financial assistant. Provide comprehensive, detailed answers to financial questions. Include "
    "relevant context, examples, and explanations when appropriate.\n\n"
    "Question: What is a bond?\n\nAnswer: A loan.<|im_end|>"
)


def _sample(tokenizer, messages, prompt=None):
    template = templates.build_template(tokenizer, "plain", [tokenizer.eos_token_id], prompt=prompt)
    rendered = templates.render(template, messages, origin="rows.jsonl:7")
    return templates.assemble(template, rendered, templates.encode(template, [rendered])[0])


def _text(tokenizer, messages, prompt=None):
    ids, taught = _sample(tokenizer, messages, prompt)
    return tokenizer.decode(ids.tolist()), tokenizer.decode(ids[taught].tolist())


def _turns(question, answer, system=None):
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer, is_taught=True))
    return turns if system is None else (Message(role="system", content=system), *turns)


def test_fiqas_prompt_is_its_text_with_the_system_sentence_on_one_line(chatml):
    assert _text(chatml, _turns("What is a bond?", "A loan."), "fiqa") == (FIQA, " A loan.<|im_end|>")


@pytest.mark.parametrize(
    ("prompt", "before", "taught"),
    [
        ("nemo", "What is a bond?", " A loan."),
        ("Q: {question}\nA:", "Q: What is a bond?\nA:", "A loan."),
        ("{question}", "What is a bond?", "A loan."),
        ("{ {x} } {question} {}\n", "{ {x} } What is a bond? {}\n", "A loan."),
    ],
)
def test_a_prompt_is_written_as_it_stands(chatml, prompt, before, taught):
    text = _text(chatml, _turns("What is a bond?", "A loan."), prompt)
    assert text == (f"{before}{taught}<|im_end|>", f"{taught}<|im_end|>")


def test_braces_in_a_question_are_text(chatml):
    question = "What is {question} in {0!r} and {{x}}?"
    assert _text(chatml, _turns(question, "x"), "Q: {question}\n")[0] == f"Q: {question}\nx<|im_end|>"


def test_a_system_message_stands_in_front_with_a_blank_line(chatml):
    assert _text(chatml, _turns("a", "b", system="Be brief."), "Q: {question}\n")[0] == "Be brief.\n\nQ: a\nb<|im_end|>"


def test_text_without_a_prompt_is_taught_whole(llama3):
    ids, taught = _sample(llama3, (Message(role="assistant", content="How many clips?", is_taught=True),))
    assert llama3.decode(ids.tolist()) == "<|begin_of_text|>How many clips?<|eot_id|>"
    assert taught.tolist() == [False] + [True] * (len(ids) - 1)


def test_text_without_a_prompt_is_refused_where_there_is_one_to_write(chatml):
    text = (Message(role="assistant", content="How many clips?", is_taught=True),)
    with pytest.raises(DataError, match=r"rows.jsonl:7: `data.prompt` goes around one question, this row has 0"):
        _sample(chatml, text, "fiqa")
    template = templates.build_template(chatml, "chat", [2])
    with pytest.raises(DataError, match=r"rows.jsonl:7: this row is text without a prompt"):
        templates.render(template, text, origin="rows.jsonl:7")


@pytest.mark.parametrize("prompt", ["no place", "{question} {question}", "{Question}", ""])
def test_a_prompt_without_one_place_for_the_question_is_refused(chatml, prompt):
    with pytest.raises(RecipeError, match=r"`data.prompt` must hold \{question\} once"):
        templates.build_template(chatml, "plain", [2], prompt=prompt)


CONTENT = st.text(st.sampled_from("a 4\n\t.{}<|\u00e4\U0001f600"), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONTENT, CONTENT, st.sampled_from(["fiqa", "metamath", "gsm8k", "nemo", None, "Q: {question} A:"]))
def test_serving_is_prompted_with_what_training_puts_before_the_answer(chatml, question, answer, prompt):
    ids, taught = _sample(chatml, _turns(question, answer), prompt)
    template = templates.build_template(chatml, "plain", [2], prompt=prompt)
    asked = templates.prompt_ids(template, _turns(question, answer)[:-1])
    assert ids[: len(asked)].tolist() == asked
    assert not taught[: len(asked)].any() and taught[len(asked) :].all()
    assert chatml.decode(ids[taught].tolist()).endswith(f"{answer}<|im_end|>")
