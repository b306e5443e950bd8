"""A conversation is asked as the chat template writes it, stays in the model's window, and keeps what was said."""

from contextlib import closing
from dataclasses import replace

import pytest
import tiny_runs
from transformers import AutoTokenizer

from whet.data.templates import build_template
from whet.errors import DataError
from whet.inference import chat
from whet.inference.chat import Conversation
from whet.inference.decoding import Decoding
from whet.inference.respond import Request, open_responder, respond

QUESTION = "How many clips did Natalia sell?"
GREEDY = Decoding(max_new_tokens=10)


@pytest.fixture(scope="module")
def responder(tmp_path_factory):
    return open_responder(Request(name=str(tiny_runs.write_base(tmp_path_factory.mktemp("chat") / "base"))))


@pytest.fixture
def prompts(monkeypatch):
    """Every prompt that a model is given, recorded on the way."""
    seen = []
    stream = chat.stream

    def recorded(model, prompt, **settings):
        seen.append(prompt)
        return stream(model, prompt, **settings)

    monkeypatch.setattr(chat, "stream", recorded)
    return seen


def ask(conversation, question):
    return "".join(conversation.ask(question))


def test_the_first_answer_is_that_of_generate(responder):
    conversation = Conversation(responder=responder, decoding=GREEDY, system=None)
    (expected,) = respond(responder, [QUESTION], GREEDY)
    assert ask(conversation, QUESTION) == expected.text
    assert conversation.last.num_new_tokens == len(expected.ids)
    assert conversation.last.ended == expected.ended
    assert 0 < conversation.last.first_token_seconds <= conversation.last.seconds


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_later_prompt_is_the_whole_conversation_as_transformers_writes_it(responder, prompts, system):
    conversation = Conversation(responder=responder, decoding=GREEDY, system=system)
    said = [{"role": "system", "content": system}] if system else []
    tokenizer = AutoTokenizer.from_pretrained(responder.loaded.folder, trust_remote_code=False)
    for question in (QUESTION, "And in May?", "Why?"):
        answer = ask(conversation, question)
        said.append({"role": "user", "content": question})
        expected = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        assert prompts[-1] == expected
        said.append({"role": "assistant", "content": answer})
    conversation.reset()
    ask(conversation, QUESTION)
    assert prompts[-1] == prompts[0]


def test_the_oldest_turns_leave_a_full_window_and_the_system_message_stays(responder, prompts):
    decoding = Decoding(max_new_tokens=30)
    conversation = Conversation(responder=responder, decoding=decoding, system="Be brief.")
    forgotten = []
    for number in range(8):
        ask(conversation, f"Question {number}: how many clips?")
        forgotten.append(conversation.last.num_forgotten)
    assert all(len(prompt) + 30 <= responder.context for prompt in prompts)
    assert sum(forgotten) > 0 and forgotten[0] == 0
    text = responder.loaded.tokenizer.decode(prompts[-1])
    assert text.startswith("<|im_start|>system\nBe brief.")
    assert "Question 0" not in text and "Question 7" in text
    # as many as fit: one more question would have been too long
    assert len(prompts[-1]) + 30 + 60 > responder.context
    assert len(conversation.turns) == 16, "all that was said is kept for /save"


def test_an_answer_limit_beyond_the_window_does_not_empty_the_history(responder, prompts):
    conversation = Conversation(responder=responder, decoding=Decoding(max_new_tokens=100_000), system=None)
    conversation.decoding = Decoding(max_new_tokens=8)
    ask(conversation, "First?")
    conversation.decoding = Decoding(max_new_tokens=100_000)
    with closing(conversation.ask("Second?")) as pieces:
        next(pieces)
    assert "First?" in responder.loaded.tokenizer.decode(prompts[-1])


def test_a_question_that_fits_nowhere_is_refused_and_changes_nothing(responder):
    conversation = Conversation(responder=responder, decoding=GREEDY, system=None)
    answer = ask(conversation, QUESTION)
    with pytest.raises(DataError, match=r"the question has [\d,]+ tokens, the model reads 256 with the answer"):
        ask(conversation, "clip " * 400)
    assert [turn.content for turn in conversation.turns] == [QUESTION, answer]


def test_an_answer_that_is_stopped_counts_as_far_as_it_was_written(responder):
    conversation = Conversation(responder=responder, decoding=GREEDY, system=None)
    whole = ask(conversation, QUESTION)
    conversation.reset()
    with closing(conversation.ask(QUESTION)) as pieces:
        begun = next(pieces) + next(pieces)
    assert conversation.last.ended == "interrupted" and conversation.last.num_new_tokens == 2
    assert [turn.content for turn in conversation.turns] == [QUESTION, begun]
    assert whole.startswith(begun)


def test_a_plain_template_sees_one_question_alone(responder, prompts):
    tokenizer = responder.loaded.tokenizer
    template = build_template(tokenizer, "plain", responder.loaded.stop_ids, prompt="Q: {question}\nA:")
    conversation = Conversation(responder=replace(responder, template=template), decoding=GREEDY, system=None)
    for _ in range(2):
        ask(conversation, QUESTION)
    assert not conversation.remembers
    assert prompts[0] == prompts[1] == tokenizer(f"Q: {QUESTION}\nA:", add_special_tokens=False)["input_ids"]


def test_what_is_drawn_depends_on_the_seed_and_the_place_in_the_conversation(responder):
    def answers(seed):
        sampled = Decoding(max_new_tokens=10, temperature=2.0, seed=seed)
        conversation = Conversation(responder=responder, decoding=sampled, system=None)
        return [ask(conversation, QUESTION) for _ in range(2)]

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)
