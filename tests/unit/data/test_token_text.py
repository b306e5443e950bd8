"""Every token shows its own text, whole characters only, and the role of the message that it stands in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import build_chatml, build_llama3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from whet.data.token_text import token_roles, token_texts, view_sample

CHATML, LLAMA3 = build_chatml(), build_llama3()
EURO = "\u20ac"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
CONVERSATION = [
    {"role": "system", "content": "You help."},
    {"role": "user", "content": "user\nHow many clips?"},
    {"role": "assistant", "content": "\n48 clips\n\nuser"},
    {"role": "user", "content": "system"},
    {"role": "assistant", "content": "assistant\nApril"},
]


def build_sentencepiece() -> PreTrainedTokenizerFast:
    """Like Llama 2's: a mark for spaces, bytes for unknown characters; its decoder drops the first space."""
    words = ["\u2581a", "\u2581b", "a", "b", "\u2581"]
    vocabulary = {name: i for i, name in enumerate(["<unk>", "<s>", "</s>", *words])}
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\u2581", "a"), ("\u2581", "b")], unk_token="<unk>",
                                     byte_fallback=True, fuse_unk=True))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def view(tokenizer, ids, taught=None, end_ids=()):
    marks = np.zeros(len(ids), dtype=bool) if taught is None else np.array(taught)
    return view_sample(tokenizer, np.array(ids), marks, sample_id="s", number=1, end_ids=end_ids).tokens


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=30))
def test_the_texts_joined_are_the_decoded_whole(text):
    for tokenizer in (CHATML, LLAMA3):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(token_texts(tokenizer, ids)) == tokenizer.decode(ids) == text


@pytest.mark.parametrize("character", [EURO, FAMILY])
def test_a_character_of_several_tokens_is_shown_whole(character):
    texts = token_texts(CHATML, CHATML(f"a{character}b", add_special_tokens=False)["input_ids"])
    assert (texts[0], texts[-1]) == ("a", "b")
    assert not any("\ufffd" in text for text in texts)
    assert len(texts) > 3


def test_the_first_token_of_a_character_shows_it():
    assert token_texts(CHATML, CHATML(f"a{EURO}b", add_special_tokens=False)["input_ids"]) == ["a", EURO, "", "", "b"]


def test_a_replacement_character_of_the_text_itself_stays():
    texts = token_texts(CHATML, CHATML("a\ufffdb", add_special_tokens=False)["input_ids"])
    assert (texts[0], "".join(texts)) == ("a", "a\ufffdb")


def test_bytes_that_are_no_character_end():
    ids = CHATML(EURO, add_special_tokens=False)["input_ids"][:1] * 30
    texts = token_texts(CHATML, ids)
    assert "".join(texts) == CHATML.decode(ids)
    assert texts.count("") < 28
    cut = CHATML(f"a{EURO}", add_special_tokens=False)["input_ids"][:-1]
    assert "".join(token_texts(CHATML, cut)) == "a\ufffd"


def test_the_space_before_a_word_is_kept_where_the_decoder_drops_the_first():
    tokenizer = build_sentencepiece()
    ids = tokenizer(f"a b b{EURO}", add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert "".join(texts) == f"a b b{EURO}"
    assert texts[:3] == ["a", " b", " b"]
    assert tokenizer.decode([ids[1]]) == "b"


@pytest.mark.parametrize(("tokenizer", "end"), [(CHATML, 2), (LLAMA3, 4)], ids=["chatml", "llama-3"])
def test_roles_are_those_of_the_messages(tokenizer, end):
    text = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = view(tokenizer, ids, end_ids=[end])
    runs = []
    for token in tokens:
        if token.role == "template":
            runs.append(None)
        elif runs and runs[-1] and runs[-1][0] == token.role:
            runs[-1] = (token.role, runs[-1][1] + token.text)
        else:
            runs.append((token.role, token.text))
    found = [{"role": run[0], "content": run[1]} for run in runs if run]
    expected = [turn | {"content": turn["content"].strip()} for turn in CONVERSATION]
    assert [turn | {"content": turn["content"].strip()} for turn in found] == expected
    assert all(token.role == "template" for token in tokens if token.is_special)


def test_the_header_of_a_prompt_that_waits_for_its_answer_is_template():
    for tokenizer, end in ((CHATML, 2), (LLAMA3, 4)):
        ids = tokenizer.apply_chat_template(CONVERSATION[:2], tokenize=True, add_generation_prompt=True)["input_ids"]
        tokens = view(tokenizer, ids, end_ids=[end])
        last_end = max(token.position for token in tokens if token.id == end)
        assert {token.role for token in tokens[last_end:]} == {"template"}


def test_plain_text_is_prompt_and_answer():
    prompt, answer = (LLAMA3(text, add_special_tokens=False)["input_ids"] for text in ("Question: user\n", "48\n\n"))
    ids = [0, *prompt, *answer, 4]
    tokens = view(LLAMA3, ids, [False] * (len(prompt) + 1) + [True] * (len(answer) + 1), end_ids=[4])
    roles = [token.role for token in tokens]
    assert roles == ["template"] + ["prompt"] * len(prompt) + ["assistant"] * len(answer) + ["template"]
    assert [token.is_taught for token in tokens] == [False] * (len(prompt) + 1) + [True] * (len(answer) + 1)
    assert [token.position for token in tokens] == list(range(len(ids)))
    assert [token.id for token in tokens] == ids


def test_a_role_name_in_running_text_opens_nothing():
    roles = token_roles(
        ["<s>", "user", "\n", "user", "</s>", "user", "\n"],
        is_special=[True, False, False, False, True, False, False],
        is_end=[False, False, False, False, True, False, False],
        is_taught=[False] * 7,
    )
    assert roles == ["template", "template", "template", "user", "template", "user", "user"]


def test_a_message_that_is_the_name_of_a_role_is_a_message():
    texts = ["<h>", "user", "</h>", "system", "<end>", "<h>", "assistant", "</h>", "user", "<end>"]
    special = [text.startswith("<") for text in texts]
    roles = token_roles(texts, is_special=special, is_end=[text == "<end>" for text in texts], is_taught=[False] * 10)
    assert [(role, text) for role, text in zip(roles, texts, strict=True) if role != "template"] == [
        ("user", "system"), ("assistant", "user")
    ]  # fmt: skip


def test_an_empty_sample_has_no_tokens():
    assert view(CHATML, []) == ()
