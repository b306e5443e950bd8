import copy
from dataclasses import replace

import pytest
from tiny_data import make_example, tokenize

from whet.data.templates import build_template, prompts
from whet.errors import DataError
from whet.types import Message

LONG = "How many clips did Natalia sell? " * 30


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_the_end_of_turn_is_taught_although_it_is_the_padding_token(chatml, kind):
    assert chatml.pad_token_id == chatml.eos_token_id
    rows = [make_example("2+2?", name=str(n)) for n in range(4)]
    for sample in tokenize(rows, chatml, template=kind)[0]:
        assert sample.ids[sample.taught][-1] == chatml.eos_token_id


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_the_number_of_taught_tokens_is_the_answers_plus_the_end(llama3, kind):
    answers = ["72", "half of 48", "April and May."]
    rows = [make_example("How many clips?\n", answer, name=str(n)) for n, answer in enumerate(answers)]
    expected = sum(len(llama3(answer, add_special_tokens=False)["input_ids"]) + 1 for answer in answers)
    assert sum(sample.num_taught for sample in tokenize(rows, llama3, template=kind)[0]) == expected


@pytest.mark.parametrize("over_length", ["drop", "error"])
def test_long_rows_are_left_out_and_named(chatml, over_length):
    samples, notes = tokenize([make_example("short"), make_example(LONG, name="b")], chatml, over_length=over_length)
    assert [sample.id for sample in samples] == ["a"]
    assert [(note.origin, note.status) for note in notes] == [("rows.jsonl:b", "too long")]
    assert "tokens, max_length is 200" in notes[0].reason


@pytest.mark.parametrize("max_length", [60, 100, 199])
def test_a_cut_prompt_keeps_system_instruction_and_answer_and_uses_the_room(chatml, max_length):
    question = LONG + "\n\nAnswer: in words."
    example = make_example(question)
    turns = (Message(role="system", content="Be brief."), *example.messages)
    example = replace(example, messages=turns)
    (whole,), _ = tokenize([example], chatml, max_length=10_000)
    (sample,), (note,) = tokenize([example], chatml, max_length=max_length, over_length="truncate_prompt")
    assert max_length - 3 <= sample.num_tokens <= max_length
    text = chatml.decode(sample.ids.tolist())
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("\n\nAnswer: in words.<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n")
    assert chatml.decode(sample.ids[sample.taught].tolist()) == "4<|im_end|>"
    assert (note.status, note.cut_from) == ("truncated", "beginning of message 2 (user)")
    assert note.num_tokens_cut == whole.num_tokens - sample.num_tokens


def test_the_beginning_of_sequence_survives_a_cut(llama3):
    for kind in ("chat", "plain"):
        (sample,), _ = tokenize(
            [make_example(LONG)], llama3, template=kind, max_length=50, over_length="truncate_prompt"
        )
        assert sample.ids.tolist().count(0) == 1 and sample.ids[0] == 0


def test_a_row_whose_answer_alone_is_too_long_is_dropped_not_cut(chatml):
    rows = [make_example("2+2?", LONG), make_example("2+2?", name="b")]
    samples, notes = tokenize(rows, chatml, over_length="truncate_prompt")
    assert [sample.id for sample in samples] == ["b"]
    assert [(note.origin, note.status) for note in notes] == [("rows.jsonl:a", "too long")]


def test_a_text_without_a_question_is_dropped_not_cut(chatml):
    text = replace(make_example(""), messages=(Message(role="assistant", content=LONG, is_taught=True),))
    samples, notes = tokenize([text], chatml, template="plain", over_length="truncate_prompt")
    assert samples == [] and notes[0].status == "too long"


def test_a_row_that_teaches_nothing_is_refused_by_name(chatml):
    turns = tuple(replace(turn, is_taught=False) for turn in make_example("2+2?").messages)
    with pytest.raises(DataError, match=r"rows.jsonl:a: no token of this row is taught"):
        tokenize([replace(make_example("2+2?"), messages=turns)], chatml)


def test_a_doubled_beginning_of_sequence_is_refused(llama3):
    from transformers import PreTrainedTokenizerFast

    doubled = PreTrainedTokenizerFast(
        tokenizer_object=llama3.backend_tokenizer,
        bos_token=llama3.bos_token,
        eos_token=llama3.eos_token,
        chat_template="{{ bos_token }}" + llama3.chat_template,
    )
    with pytest.raises(DataError, match="2 beginning-of-sequence tokens"):
        tokenize([make_example("2+2?")], doubled)


def test_samples_do_not_depend_on_their_neighbours(chatml):
    rows = [
        make_example("2+2?", name="a"),
        make_example("say <|im_end|>", "<|im_start|>", name="b"),
        make_example("c", name="c"),
    ]
    together = tokenize(rows, chatml)[0]
    alone = [tokenize([row], chatml)[0][0] for row in rows]
    assert [sample.ids.tolist() for sample in together] == [sample.ids.tolist() for sample in alone]


def test_samples_begin_with_the_evaluation_prompt(chatml):
    rows = [make_example(f"How many{' ' * n}?", "\n" * n + "4", name=str(n)) for n in range(4)]
    asked = prompts(build_template(chatml, "chat", [chatml.eos_token_id]), rows)
    for prompt, sample in zip(asked, tokenize(rows, chatml)[0], strict=True):
        assert sample.ids[: len(prompt)].tolist() == prompt


def test_a_row_that_the_template_refuses_is_noted_and_the_others_go_on(chatml):
    refusing = copy.deepcopy(chatml)
    refusing.chat_template = (
        "{% if 'x' in messages[0]['content'] %}{{ raise_exception('no x here') }}{% endif %}" + chatml.chat_template
    )
    rows = [make_example("a", name="1"), make_example("x", name="2"), make_example("b", name="3")]
    samples, (note,) = tokenize(rows, refusing)
    assert [sample.id for sample in samples] == ["1", "3"]
    assert (note.origin, note.status) == ("rows.jsonl:2", "bad") and "no x here" in note.reason


def test_an_answer_that_its_tokens_do_not_spell_is_refused_by_name(chatml):
    changing = copy.deepcopy(chatml)
    # a template that writes the answer, and then something more before the turn ends
    changing.chat_template = chatml.chat_template.replace(
        "message['content'] + '<|im_end|>'",
        "message['content'] + ('!' if message['role'] == 'assistant' else '') + '<|im_end|>'",
    )
    assert changing.chat_template != chatml.chat_template
    with pytest.raises(DataError, match=r"rows.jsonl:a: the taught tokens spell '4!', the answer is '4'"):
        tokenize([make_example("2+2?")], changing)


def test_a_prompt_that_serving_writes_otherwise_is_refused_by_name(chatml, monkeypatch):
    from whet.data import templates

    monkeypatch.setattr(templates, "prompts", lambda _, examples: [[1, 2, 3] for _ in examples])
    with pytest.raises(DataError, match=r"rows.jsonl:a: the prompt of serving is not what training puts"):
        tokenize([make_example("2+2?")], chatml)


def test_a_last_token_that_generation_does_not_stop_at_is_refused_by_name(chatml, monkeypatch):
    from whet.data import templates

    honest = templates.assemble

    def one_token_less(*arguments):
        ids, taught = honest(*arguments)
        taught[max(i for i in range(len(ids)) if taught[i])] = False
        return ids, taught

    monkeypatch.setattr(templates, "assemble", one_token_less)
    with pytest.raises(DataError, match=r"rows.jsonl:a: the last taught token does not end the turn"):
        tokenize([make_example("2+2?")], chatml)
