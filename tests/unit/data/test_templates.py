import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from whet.data import templates
from whet.data.templates.encode import _encode_between_controls
from whet.errors import DataError, RecipeError
from whet.types import Example, Message

pytestmark = pytest.mark.slow

ENDS = {"chatml": [2], "llama3": [4]}

TEXT = st.lists(
    st.sampled_from(
        ["How many", " clips", "\n", "\n\n", "  ", "\t", "42", "don't", "\u00e4\u00f6", "\U0001f600", ".", ":", "<"]
    ),
    min_size=1,
    max_size=8,
).map("".join)  # fmt: skip
VISIBLE = TEXT.filter(str.strip)
ORDINARY = VISIBLE.filter(lambda text: not text[0].isspace())
HOSTILE = st.lists(
    st.sampled_from(
        ["<|im_end|>", "<|im_start|>system\n", "<|eot_id|>", "<|endoftext|>", "\U000f0000", " ok ", "\n", "x"]
    ),
    min_size=1,
    max_size=6,
).map(lambda parts: "".join(parts) + "!")  # fmt: skip


def _turns(*contents, system=None):
    turns = [] if system is None else [Message(role="system", content=system)]
    for index, content in enumerate(contents):
        is_answer = bool(index % 2)
        turns.append(Message(role="assistant" if is_answer else "user", content=content, is_taught=is_answer))
    return tuple(turns)


def _example(*contents, system=None):
    return Example(id="1", messages=_turns(*contents, system=system), task="plain_answer", origin="rows.jsonl:7")


def _ids(tokenizer, messages, kind="chat", ends=None):
    template = templates.build_template(tokenizer, kind, ends or [tokenizer.eos_token_id])
    rendered = templates.render(template, messages, origin="rows.jsonl:7")
    return templates.assemble(template, rendered, templates.encode(template, [rendered])[0])


def _prompt(tokenizer, example, kind):
    template = templates.build_template(tokenizer, kind, [tokenizer.eos_token_id])
    return templates.prompts(template, [example])[0]


def _reference(tokenizer, messages):
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    return list(tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"])


@pytest.fixture(params=["chatml", "llama3"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


SHARED_FIXTURE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_FIXTURE
@given(st.lists(st.tuples(TEXT, ORDINARY), min_size=1, max_size=3), st.none() | TEXT)
def test_ids_equal_the_tokenizers_own_rendering(tokenizer, pairs, system):
    messages = _turns(*itertools.chain(*pairs), system=system)
    ids, _ = _ids(tokenizer, messages)
    assert ids.tolist() == _reference(tokenizer, messages)


@pytest.mark.parametrize("kind", ["chat", "plain"])
@SHARED_FIXTURE
@given(TEXT, st.one_of(VISIBLE, HOSTILE), st.none() | TEXT)
def test_the_prompt_is_exactly_what_stands_before_the_first_taught_token(tokenizer, kind, question, answer, system):
    example = _example(question, answer, system=system)
    ids, taught = _ids(tokenizer, example.messages, kind)
    prompt = _prompt(tokenizer, example, kind)
    assert prompt == ids[: len(prompt)].tolist()
    assert not taught[: len(prompt)].any()
    assert taught[len(prompt)]


@pytest.mark.slow
@SHARED_FIXTURE
@given(st.lists(st.tuples(TEXT, VISIBLE), min_size=2, max_size=3))
def test_earlier_turns_do_not_change_when_later_ones_follow(tokenizer, pairs):
    for num_pairs in range(1, len(pairs) + 1):
        short, _ = _ids(tokenizer, _turns(*itertools.chain(*pairs[:num_pairs])))
        whole, _ = _ids(tokenizer, _turns(*itertools.chain(*pairs)))
        assert whole[: len(short)].tolist() == short.tolist()


@SHARED_FIXTURE
@given(st.lists(st.tuples(TEXT, st.one_of(VISIBLE, HOSTILE)), min_size=1, max_size=3))
def test_taught_tokens_are_the_answers_and_their_end_of_turn(chatml, pairs):
    ids, taught = _ids(chatml, _turns(*itertools.chain(*pairs)))
    assert chatml.decode(ids[taught].tolist()) == "".join(answer + "<|im_end|>" for _, answer in pairs)
    assert taught[-1] == False  # noqa: E712 - the line break behind the last turn
    assert int((ids[taught] == 2).sum()) == len(pairs)


@SHARED_FIXTURE
@given(HOSTILE, HOSTILE, HOSTILE)
def test_control_tokens_in_messages_stay_text(tokenizer, system, question, answer):
    ids, taught = _ids(tokenizer, _turns(question, answer, system=system))
    harmless, _ = _ids(tokenizer, _turns("a", "b", system="c"))
    for control in tokenizer.all_special_ids:
        assert int((ids == control).sum()) == int((harmless == control).sum())
    text = tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
    assert all(content.strip() in text for content in (system, question, answer))
    assert tokenizer.decode(ids[taught].tolist()).strip().startswith(answer.strip())


def test_control_text_costs_ordinary_text_nothing(chatml):
    template = templates.build_template(chatml, "chat", [2])
    text = "<|im_start|>user\nHow many clips?\n\n 42<|im_end|>\n<|im_start|>assistant\n"
    assert _encode_between_controls(template, text, {}) == chatml(text, add_special_tokens=False)["input_ids"]


def test_exactly_one_beginning_of_sequence(llama3, chatml):
    for kind in ("chat", "plain"):
        ids, _ = _ids(llama3, _turns("a", "b"), kind)
        assert ids.tolist().count(0) == 1 and ids[0] == 0
        assert _prompt(llama3, _example("a", "b"), kind).count(0) == 1
    ids, _ = _ids(chatml, _turns("a", "b"), "plain")
    assert ids.tolist().count(chatml.bos_token_id) == 0


def test_plain_puts_prompt_and_answer_together_and_ends_with_eos(chatml):
    def text(prompt, answer):
        return chatml.decode(_ids(chatml, _turns(prompt, answer), "plain")[0].tolist())

    assert text("Q: 2+2? A:", " 4") == "Q: 2+2? A: 4<|im_end|>"
    assert text("Q: 2+2? A: ", "4") == "Q: 2+2? A: 4<|im_end|>"
    assert text("Question\n", "4") == "Question\n4<|im_end|>"
    assert text("Question", "4") == "Question\n4<|im_end|>"


def test_a_space_at_the_end_of_a_plain_prompt_does_not_split_the_answers_first_token(chatml):
    spaced, _ = _ids(chatml, _turns("The answer: ", "half"), "plain")
    joint = chatml("The answer: half", add_special_tokens=False)["input_ids"]
    assert spaced.tolist() == [*joint, 2]


def test_an_answer_that_begins_with_a_line_break_keeps_the_prompt_whole(chatml):
    joint = _reference(chatml, _turns("a", "\n\n  b"))
    prompt = _prompt(chatml, _example("a", "\n\n  b"), "chat")
    assert joint[: len(prompt)] != prompt
    ids, _ = _ids(chatml, _turns("a", "\n\n  b"))
    assert ids[: len(prompt)].tolist() == prompt
    assert chatml.decode(ids.tolist()) == chatml.decode(joint)


def test_untaught_answers_are_context_only(chatml):
    messages = list(_turns("a", "b", "c", "d"))
    messages[1] = Message(role="assistant", content="b")
    ids, taught = _ids(chatml, messages)
    assert chatml.decode(ids[taught].tolist()) == "d<|im_end|>"


def test_a_template_that_rewrites_history_is_refused(chatml):
    tokenizer = _with_template(
        chatml, "{% for m in messages %}{{ m.content if loop.last else m.content[:2] }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(DataError, match=r"rows.jsonl:7: .*writes earlier turns differently"):
        _ids(tokenizer, _turns("question", "answer", "question", "answer"))


def test_a_template_that_changes_the_answer_is_refused(chatml):
    tokenizer = _with_template(chatml, "{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}")
    with pytest.raises(DataError, match="changes the text of an answer"):
        _ids(tokenizer, _turns("question", "answer"))


def test_a_template_without_end_of_turn_is_refused(chatml):
    tokenizer = _with_template(chatml, "{% for m in messages %}{{ m.content }}\n{% endfor %}")
    with pytest.raises(DataError, match="does not end the assistant's turn"):
        _ids(tokenizer, _turns("question", "answer"))


def test_a_conversation_that_the_template_refuses_is_named(chatml):
    tokenizer = _with_template(chatml, "{{ raise_exception('System role not supported') }}")
    with pytest.raises(DataError, match=r"rows.jsonl:7: the chat template refuses.*System role not supported"):
        _ids(tokenizer, _turns("question", "answer"))


def test_templates_cannot_reach_python_objects(chatml):
    tokenizer = _with_template(chatml, "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(RecipeError, match=r"rows.jsonl:7: the tokenizer's own chat template cannot be used: Security"):
        _ids(tokenizer, _turns("question", "answer"))


def test_a_template_with_todays_date_renders_the_same_every_day(chatml):
    date = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    tokenizer = _with_template(
        chatml, date + "{{ date_string }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    ids, _ = _ids(tokenizer, _turns("question", "answer"))
    assert tokenizer.decode(ids.tolist()).startswith("26 Jul 2024question")


def test_a_tokenizer_without_template_or_end_token_is_refused(chatml):
    tokenizer = _with_template(chatml, None)
    with pytest.raises(
        RecipeError, match=r"(?s)no chat template of its own.*llama-3, llama-3.1, nemotron-nano, smollm2"
    ):
        templates.build_template(tokenizer, "chat", [2])
    with pytest.raises(RecipeError, match="is not one that generation stops at"):
        templates.build_template(tokenizer, "plain", [0])


def test_plain_takes_one_prompt_and_one_answer(chatml):
    with pytest.raises(DataError, match="takes one prompt and one answer"):
        _ids(chatml, _turns("a", "b", "c", "d"), "plain")


def test_a_tokenizer_that_cannot_spell_control_text_refuses_such_rows_only():
    metaspace = Tokenizer(models.BPE({character: n for n, character in enumerate("\u2581abcx<|_>/s\n")}, []))
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    metaspace.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=metaspace,
        eos_token="</s>",
        chat_template="{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}",
    )
    _ids(tokenizer, _turns("ab", "c"))
    with pytest.raises(DataError, match="cannot spell out as text"):
        _ids(tokenizer, _turns("a</s>b", "c", "a", "b"))


def _with_template(tokenizer, chat_template):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        chat_template=chat_template,
    )
