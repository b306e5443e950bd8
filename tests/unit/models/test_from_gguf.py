"""The converted weights are bit for bit what transformers makes of the same GGUF; the tokenizer is the trained one."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from whet.errors import HubError, RecipeError
from whet.models.from_gguf import convert_gguf, require_gguf


def test_weights_equal_those_of_the_gguf_loader_of_transformers(tiny_gguf, tiny_folder):
    expected = AutoModelForCausalLM.from_pretrained(
        tiny_gguf.parent,
        gguf_file=tiny_gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, trust_remote_code=False)
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, expected(ids).logits, atol=1e-5)  # eps and theta agree as well


def test_the_same_gguf_gives_the_same_bytes(tiny_gguf, tiny_folder, tmp_path):
    convert_gguf(tiny_gguf, tmp_path)
    for path in tiny_folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_config_holds_the_numbers_people_wrote(tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-05
    assert config["rope_theta"] == 10000.0
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)


def test_digits_are_cut_off_before_anything_else_is_split(tiny_folder):
    """Without that step the second space goes with the digits: another token in front of every aligned number."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder, trust_remote_code=False)
    assert tokenizer.tokenize("12345") == list("12345")
    assert tokenizer.tokenize("the  42") == ["t", "he", "ĠĠ", "4", "2"]


def test_special_tokens_survive_and_text_comes_back(tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder, trust_remote_code=False)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "the 7"}], tokenize=False)
    assert chat == "<|im_start|>user\nthe 7<|im_end|>\n"
    ids = tokenizer(chat).input_ids
    assert (ids[0], ids.count(1), ids.count(2)) == (1, 1, 1)
    assert tokenizer.decode(ids) == chat


def test_another_pre_tokenizer_is_refused(tmp_path, write_gguf):
    write_gguf(tmp_path / "other.gguf", pre_tokenizer="llama-bpe")
    with pytest.raises(HubError, match="not a Llama-shaped model with SmolLM's tokenizer"):
        convert_gguf(tmp_path / "other.gguf", tmp_path)


def test_a_missing_gguf_package_is_told_with_its_mend(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'whet\[demo\]'"):
        require_gguf()
