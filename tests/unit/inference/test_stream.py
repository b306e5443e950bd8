"""An answer told while it is written is the answer of `generate`, never with half a character or half a stop string."""

import numpy as np
import pytest
import tiny_folders
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCAB, tiny_llama

from whet.errors import DataError
from whet.inference.engine import Completion, Decoding, generate, stream
from whet.inference.growing_text import GrowingText
from whet.kernels import attention

TOKENIZERS = {"bytes": tiny_folders.smollm(), "sentencepiece": tiny_folders.llama2()}


@pytest.fixture(scope="module")
def model():
    model = tiny_llama(torch.float32)
    attention.install(model)
    return model


def letters(ids):
    return "".join(chr(97 + token % 26) for token in ids)


def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCAB, n).tolist() for n in (17, 1, 64, 65)]


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new_tokens=30),
        Decoding(max_new_tokens=1),
        Decoding(max_new_tokens=30, temperature=0.9, top_k=50, seed=3),
        Decoding(max_new_tokens=30, max_total_tokens=70),
    ],
    ids=str,
)
def test_the_stream_is_the_answer_of_generate_with_a_piece_for_every_token(model, decoding):
    for number, prompt in enumerate(prompts()):
        asked = {"stop_ids": frozenset({5, 77}), "decoding": decoding, "decode": letters}
        (expected,) = generate(model, [prompt], keys=[f"row {number}"], **asked)
        *pieces, completion = stream(model, prompt, key=f"row {number}", **asked)
        assert completion == expected
        assert "".join(pieces) == expected.text
        assert len(pieces) == len(expected.ids)
        stopped_short = expected.ended == "stop_token"
        assert all(pieces[: len(pieces) - stopped_short]), "a letter is whole at once"


def test_a_stop_string_is_never_told_not_even_its_beginning(model):
    prompt = prompts()[0]
    (whole,) = generate(model, [prompt], stop_ids=frozenset(), decoding=Decoding(max_new_tokens=20), decode=letters)
    stop = whole.text[8:12]
    cut = whole.text[: whole.text.index(stop)]
    decoding = Decoding(max_new_tokens=20, stop_strings=(stop, "zzzz"))
    *pieces, completion = stream(model, prompt, stop_ids=frozenset(), decoding=decoding, decode=letters)
    assert isinstance(completion, Completion) and completion.ended == "stop_string"
    assert "".join(pieces) == completion.text == cut
    told = ""
    for piece in pieces:
        told += piece
        assert cut.startswith(told)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text("ab .\n\u00e9\u6771\U0001f600", max_size=30), data=st.data())
@settings(max_examples=100, deadline=None)
def test_steady_text_only_grows_and_holds_whole_characters_alone(name, text, data):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(ids):
        return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    stop = data.draw(st.sampled_from([(), ("\u00e9\u6771",), ("a ", "ab\n", "never")]))
    whole = decode(ids)
    growing, told = GrowingText(decode, stop), ""
    for token in ids:
        cut = growing.add(token)
        if cut is not None:
            assert cut.startswith(told)
            return
        steady = growing.steady_text()
        assert steady.startswith(told) and whole.startswith(steady)
        assert "\ufffd" not in steady
        told = steady


def test_steady_text_holds_back_what_may_become_a_stop_string_and_no_more():
    growing = GrowingText(lambda ids: "".join(map(chr, ids)), ["\nQuestion:", "Q."])
    told = []
    for character in "a\nQu\nb":
        assert growing.add(ord(character)) is None
        told.append(growing.steady_text())
    assert told == ["a", "a", "a", "a", "a\nQu", "a\nQu\nb"]


def test_whoever_stops_asking_stops_the_work(model, monkeypatch):
    from whet.inference import engine

    steps = []
    step = engine._Decoder.step
    monkeypatch.setattr(engine._Decoder, "step", lambda self: (steps.append(1), step(self))[1])
    pieces = stream(model, [5, 6], stop_ids=frozenset(), decoding=Decoding(max_new_tokens=30), decode=letters)
    assert [len(next(pieces)) for _ in range(3)] == [1, 1, 1]
    pieces.close()
    assert len(steps) == 2


def test_gradients_are_off_inside_and_as_they_were_outside(model):
    pieces = stream(model, [5, 6], stop_ids=frozenset(), decoding=Decoding(max_new_tokens=3), decode=letters)
    next(pieces)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    pieces.close()


def test_a_prompt_without_room_is_refused(model):
    decoding = Decoding(max_new_tokens=3, max_total_tokens=2)
    with pytest.raises(DataError, match="the prompt has 2 tokens"):
        next(stream(model, [5, 6], stop_ids=frozenset(), decoding=decoding, decode=letters))
