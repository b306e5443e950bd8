"""The text token by token is the text of all tokens, and a stop string is found wherever tokens and bytes are cut."""

import pytest
import tiny_folders
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.inference.growing_text import GrowingText

TOKENIZERS = {"bytes": tiny_folders.smollm(), "sentencepiece": tiny_folders.llama2()}
TEXTS = ["the world", " hello  there\n\nQuestion: 2", "\u6771\u4eac \U0001f600 caf\u00e9.", " . , 's"]


def decoder(name):
    tokenizer = TOKENIZERS[name]
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_text_of_any_tokens_is_what_decoding_them_at_once_gives(name, data):
    ids = data.draw(st.lists(st.integers(3, len(TOKENIZERS[name]) - 1), max_size=20))
    decode = decoder(name)
    growing = GrowingText(decode, ["no such text"])
    assert all(growing.add(token) is None for token in ids)
    assert growing.text() == decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text("abcdehl .\n\u00e9\u6771\U0001f600", max_size=30), data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_answer_is_cut_before_the_first_stop_string_as_soon_as_it_is_there(name, text, data):
    decode = decoder(name)
    ids = TOKENIZERS[name](text, add_special_tokens=False)["input_ids"]
    whole = decode(ids)
    start = data.draw(st.integers(0, max(0, len(whole) - 1)))
    stops = [stop for stop in (whole[start : start + data.draw(st.integers(1, 6))], "zz") if stop]
    growing = GrowingText(decode, stops)
    cuts = [growing.add(token) for token in ids]
    first = next((i for i, cut in enumerate(cuts) if cut is not None), None)
    places = [place for stop in stops if (place := whole.find(stop)) >= 0]
    if not places:
        assert first is None
        return
    assert cuts[first] == whole[: min(places)]
    # one token earlier it was not there yet
    assert all(stop not in decode(ids[:first]) for stop in stops)


def test_a_stop_string_inside_one_token_cuts_the_token():
    ids = {"a": 1, "bSTOPc": 2}
    texts = {number: text for text, number in ids.items()}
    growing = GrowingText(lambda tokens: "".join(texts[t] for t in tokens), ["STOP"])
    assert [growing.add(1), growing.add(2)] == [None, "ab"]


def test_few_tokens_are_decoded_in_every_step():
    lengths = []

    def decode(ids):
        lengths.append(len(ids))
        return "x" * len(ids)

    growing = GrowingText(decode, ["y"])
    for token in range(500):
        growing.add(token)
    assert max(lengths) <= 3
    assert growing.text() == "x" * 500
