"""llama.cpp's rules, fed with the fields of the GGUF file, cut every text as the tokenizer does; or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import llama_cpp_rules
import pytest
import tiny_folders
from tokenizers import AddedToken, normalizers, pre_tokenizers

from whet.errors import RecipeError
from whet.export.gguf import parts_of_folder, write_gguf
from whet.models.tokenizer import read_tokenizer

TEXTS = (
    "How many clips did Natalia sell in April and May?",
    "12345 and 3.14, don't we'LL it'S\n\n\n  indented\ttext  \r\n end ",
    "the world, hello the world. hell thell ethell",
    "é 漢字 🙂 \u00a0 x",
    " ",
    "   three spaces",
)
CONTROLS = {
    "chatml": "<|im_start|>user\nhi<|im_end|>\n",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\n12<|eot_id|>",
}
KINDS = {"chatml": "gpt-2", "smollm": "smollm", "llama3": "llama-bpe", "llama2": "default"}


@pytest.fixture
def write(tmp_path):
    """Write the folder and the GGUF file of a tokenizer; returns (folder, fields of the file)."""

    def write_both(tokenizer, **config) -> tuple[Path, dict]:
        folder = tiny_folders.write_folder(tmp_path / "model", tokenizer, **config)
        write_gguf(parts_of_folder(folder), tmp_path / "model.gguf", kind="F32", name="tiny")
        return folder, llama_cpp_rules.read_metadata(tmp_path / "model.gguf")

    return write_both


@pytest.mark.parametrize("name", KINDS)
def test_every_text_becomes_the_tokens_it_has_in_training(write, name):
    folder, fields = write(getattr(tiny_folders, name)())
    assert fields["tokenizer.ggml.pre"] == KINDS[name]
    tokenizer = read_tokenizer(folder)
    for text in (*TEXTS, CONTROLS.get(name, "the")):
        assert llama_cpp_rules.tokenize(fields, text) == tokenizer(text)["input_ids"], text


def test_the_begin_token_is_added_only_where_the_tokenizer_adds_it(write):
    _, fields = write(tiny_folders.smollm())
    assert fields["tokenizer.ggml.bos_token_id"] == 1
    assert fields["tokenizer.ggml.add_bos_token"] is False


def test_end_tokens_and_template_go_along(write):
    """The end of a turn is stated: llama.cpp would otherwise take <|endoftext|> or <|im_end|> as the hash falls."""
    tokenizer = tiny_folders.llama3()
    _, fields = write(tokenizer)
    ids = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "eot", "padding")}
    assert ids == {"bos": 0, "eos": 4, "eot": 4, "padding": 1}
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template


def test_a_base_models_end_of_turn_differs_from_its_end_token(tmp_path):
    tokenizer = tiny_folders.llama3()
    tokenizer.eos_token = "<|end_of_text|>"
    folder = tiny_folders.write_folder(tmp_path / "model", tokenizer)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 4]}))
    write_gguf(parts_of_folder(folder), tmp_path / "model.gguf", kind="F32", name="tiny")
    fields = llama_cpp_rules.read_metadata(tmp_path / "model.gguf")
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (1, 4)


def test_rows_of_the_embedding_without_a_token_are_marked_unused(write):
    tokenizer = tiny_folders.smollm()
    _, fields = write(tokenizer, vocab_size=len(tokenizer) + 3)
    assert fields["tokenizer.ggml.tokens"][-1] == f"[PAD{len(tokenizer) + 2}]"
    assert fields["tokenizer.ggml.token_type"][-4:] == [1, 5, 5, 5]
    assert fields["tokenizer.ggml.token_type"][:3] == [3, 3, 3]


def _other_words(tokenizer):
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


def _lower_case(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def _space_before_the_first_word(tokenizer):
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def _whole_words(tokenizer):
    tokenizer.backend_tokenizer.model.ignore_merges = True


def _greedy_token(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|x|>", lstrip=True)]})


@pytest.mark.parametrize(
    "change", [_other_words, _lower_case, _space_before_the_first_word, _whole_words, _greedy_token]
)
def test_what_llama_cpp_would_cut_otherwise_is_refused(write, change):
    tokenizer = tiny_folders.smollm()
    change(tokenizer)
    with pytest.raises(RecipeError, match=r"cannot be written to GGUF so that llama.cpp splits text alike"):
        write(tokenizer)


def test_merges_that_no_score_per_token_can_order_are_refused(tmp_path):
    folder = tiny_folders.write_folder(tmp_path / "model", tiny_folders.llama2())
    document = json.loads((folder / "tokenizer.json").read_text())
    merges = document["model"]["merges"]
    merges.append(merges.pop(next(i for i, pair in enumerate(merges) if "".join(pair) == "▁the")))
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(RecipeError, match="SentencePiece"):
        write_gguf(parts_of_folder(folder), tmp_path / "model.gguf", kind="F32", name="tiny")


def test_unigram_is_refused(tmp_path):
    folder = tiny_folders.write_folder(tmp_path / "model", tiny_folders.smollm())
    document = json.loads((folder / "tokenizer.json").read_text())
    vocab = [[token, -1.0] for token in document["model"]["vocab"]]
    document["model"] = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(RecipeError, match="Unigram"):
        write_gguf(parts_of_folder(folder), tmp_path / "model.gguf", kind="F32", name="tiny")
