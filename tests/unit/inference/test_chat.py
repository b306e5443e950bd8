"""A conversation is asked as the chat template writes it, stays in the model's window, and keeps what was said."""

from contextlib import closing
from dataclasses import replace
from itertools import cycle

import pytest
import tiny_runs
from transformers import AutoTokenizer

from whet.data.templates import build_template
from whet.errors import DataError
from whet.inference import chat
from whet.inference.chat import Conversation
from whet.inference.decoding import Decoding
from whet.inference.respond import Request, open_responder, respond
from whet.types import Message

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


def turns(*texts):
    return [Message(role=role, content=text) for role, text in zip(cycle(("user", "assistant")), texts, strict=False)]


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_later_prompt_is_the_whole_conversation_as_transformers_writes_it(responder, prompts, system):
    conversation = Conversation(responder=responder, decoding=GREEDY, system=system)
    said = [{"role": "system", "content": system}] if system else []
    tokenizer = AutoTokenizer.from_pretrained(responder.loaded.folder, trust_remote_code=False)
    for question, answer in ((QUESTION, "She sold 48."), ("And in May?", "24:\n\nhalf of them."), ("Why?", "")):
        ask(conversation, question)
        said.append({"role": "user", "content": question})
        expected = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        assert prompts[-1] == expected
        # random weights may begin an answer with a line break, which a tokenizer joins with the one before it
        conversation.turns[-1] = Message(role="assistant", content=answer)
        said.append({"role": "assistant", "content": answer})
    conversation.reset()
    ask(conversation, QUESTION)
    assert prompts[-1] == prompts[0]


def test_the_oldest_turns_leave_a_full_window_and_the_system_message_stays(responder, prompts):
    said = turns(*(text for n in range(9) for text in (f"Question {n}: how many clips?", f"Answer {n} is: 48 clips")))
    conversation = Conversation(
        responder=responder, decoding=Decoding(max_new_tokens=30), system="Be brief.", turns=list(said)
    )
    ask(conversation, "Question 9?")
    num_forgotten = conversation.last.num_forgotten
    text = responder.loaded.tokenizer.decode(prompts[-1])
    assert 0 < num_forgotten < 9
    assert text.startswith("<|im_start|>system\nBe brief.")
    assert f"Question {num_forgotten - 1}" not in text
    assert f"Question {num_forgotten}" in text and "Answer 8" in text and "Question 9" in text
    oldest = responder.loaded.tokenizer(f"{said[0].content}{said[1].content}", add_special_tokens=False)["input_ids"]
    assert len(prompts[-1]) + 30 <= responder.context < len(prompts[-1]) + 30 + len(oldest) + 20
    ask(conversation, "Question 10?")
    assert len(prompts[-1]) + 30 <= responder.context
    assert conversation.turns[: len(said)] == said and len(conversation.turns) == len(said) + 4


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
