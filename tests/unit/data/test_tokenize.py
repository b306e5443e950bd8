from dataclasses import replace

import pytest

from whet.data.templates import render_prompt
from whet.data.tokenize import fingerprint, tokenize_examples
from whet.errors import DataError
from whet.types import Example, Message


def _example(question, answer="4", name="a", **kwargs):
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer, is_taught=True))
    return Example(id=name, messages=turns, task="plain_answer", origin=f"rows.jsonl:{name}", **kwargs)


def _tokenize(examples, tokenizer, **kwargs):
    settings = {"template": "chat", "max_length": 200, "over_length": "drop", "end_ids": [tokenizer.eos_token_id]}
    return tokenize_examples(examples, tokenizer, **{**settings, **kwargs})


LONG = "How many clips did Natalia sell? " * 30


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_the_end_of_turn_is_taught_although_it_is_the_padding_token(chatml, kind):
    assert chatml.pad_token_id == chatml.eos_token_id
    rows = [_example("2+2?", name=str(n)) for n in range(4)]
    for sample in _tokenize(rows, chatml, template=kind).samples:
        assert sample.ids[sample.taught][-1] == chatml.eos_token_id


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_the_number_of_taught_tokens_is_the_answers_plus_the_end(llama3, kind):
    answers = ["72", "half of 48", "April and May."]
    rows = [_example("How many clips?\n", answer, name=str(n)) for n, answer in enumerate(answers)]
    expected = sum(len(llama3(answer, add_special_tokens=False)["input_ids"]) + 1 for answer in answers)
    assert sum(sample.num_taught for sample in _tokenize(rows, llama3, template=kind).samples) == expected


def test_long_rows_are_dropped_and_named(chatml):
    done = _tokenize([_example("short"), _example(LONG, name="b")], chatml)
    assert [sample.id for sample in done.samples] == ["a"]
    assert done.num_rows == len(done.samples) + len(done.dropped) == 2
    assert done.dropped[0].origin == "rows.jsonl:b"
    assert "tokens, max_length is 200" in done.dropped[0].reason


def test_long_rows_stop_the_run_when_asked(chatml):
    rows = [_example(LONG, name=str(n)) for n in range(25)]
    with pytest.raises(DataError, match=r"(?s)25 of 26 rows are too long.*rows.jsonl:19: .*and 5 more"):
        _tokenize([*rows, _example("short", name="z")], chatml, over_length="error")


@pytest.mark.parametrize("max_length", [60, 100, 199])
def test_a_cut_prompt_keeps_system_instruction_and_answer_and_uses_the_room(chatml, max_length):
    question = LONG + "\n\nAnswer: in words."
    example = _example(question)
    turns = (Message(role="system", content="Be brief."), *example.messages)
    example = replace(example, messages=turns)
    done = _tokenize([example], chatml, max_length=max_length, over_length="truncate_prompt")
    (sample,) = done.samples
    assert max_length - 3 <= sample.num_tokens <= max_length
    text = chatml.decode(sample.ids.tolist())
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("\n\nAnswer: in words.<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n")
    assert chatml.decode(sample.ids[sample.taught].tolist()) == "4<|im_end|>"
    assert done.truncated[0].reason.endswith(f"cut to {sample.num_tokens}")
    assert not done.dropped


def test_the_beginning_of_sequence_survives_a_cut(llama3):
    for kind in ("chat", "plain"):
        (sample,) = _tokenize(
            [_example(LONG)], llama3, template=kind, max_length=50, over_length="truncate_prompt"
        ).samples
        assert sample.ids.tolist().count(0) == 1 and sample.ids[0] == 0


def test_a_row_whose_answer_alone_is_too_long_is_dropped_not_cut(chatml):
    rows = [_example("2+2?", LONG), _example("2+2?", name="b")]
    done = _tokenize(rows, chatml, over_length="truncate_prompt")
    assert [sample.id for sample in done.samples] == ["b"]
    assert [row.origin for row in done.dropped] == ["rows.jsonl:a"]


def test_no_row_left_is_an_error(chatml):
    with pytest.raises(DataError, match="none of 1 rows fits"):
        _tokenize([_example(LONG)], chatml)


def test_a_row_that_teaches_nothing_is_refused_by_name(chatml):
    turns = tuple(replace(turn, is_taught=False) for turn in _example("2+2?").messages)
    with pytest.raises(DataError, match=r"rows.jsonl:a: no token of this row is taught"):
        _tokenize([replace(_example("2+2?"), messages=turns)], chatml)


def test_a_doubled_beginning_of_sequence_is_refused(llama3):
    from transformers import PreTrainedTokenizerFast

    doubled = PreTrainedTokenizerFast(
        tokenizer_object=llama3.backend_tokenizer,
        bos_token=llama3.bos_token,
        eos_token=llama3.eos_token,
        chat_template="{{ bos_token }}" + llama3.chat_template,
    )
    with pytest.raises(DataError, match="two beginning-of-sequence tokens"):
        _tokenize([_example("2+2?")], doubled)


def test_samples_do_not_depend_on_their_neighbours(chatml):
    rows = [_example("2+2?", name="a"), _example("say <|im_end|>", "<|im_start|>", name="b"), _example("c", name="c")]
    together = _tokenize(rows, chatml).samples
    alone = [_tokenize([row], chatml).samples[0] for row in rows]
    assert [sample.ids.tolist() for sample in together] == [sample.ids.tolist() for sample in alone]


def test_samples_begin_with_the_evaluation_prompt(chatml):
    rows = [_example(f"How many{' ' * n}?", "\n" * n + "4", name=str(n)) for n in range(4)]
    for row, sample in zip(rows, _tokenize(rows, chatml).samples, strict=True):
        prompt = render_prompt(chatml, row, "chat")
        assert sample.ids[: len(prompt)].tolist() == prompt


def test_the_fingerprint_sees_ids_tokens_marks_and_order(chatml):
    one, two = _tokenize([_example("2+2?"), _example("3+3?", name="b")], chatml).samples
    marks = one.taught.copy()
    marks[-1] = True
    changed = [replace(one, id="c"), replace(one, ids=one.ids + 1), replace(one, taught=marks)]
    prints = {fingerprint(samples) for samples in ([one, two], [two, one], *([each, two] for each in changed))}
    assert len(prints) == 5
    assert fingerprint([one, two]) == fingerprint([replace(one, ids=one.ids.copy()), two])
