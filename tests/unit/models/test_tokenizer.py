"""The tokenizer alone is the one of the loaded model: same text splitting, same end tokens, no weights needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from whet.errors import HubError, RecipeError, StorageError
from whet.hub.settings import HubSettings
from whet.models.hub import fetch_snapshot
from whet.models.load import load_pretrained
from whet.models.tokenizer import load_tokenizer, read_stop_ids, read_tokenizer, stop_ids
from whet.recipe.schema import Model


def edit_json(path: Path, *, without: tuple[str, ...] = (), **changed) -> None:
    value = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({name: kept for name, kept in value.items() if name not in without}))


def test_the_tokenizer_alone_is_that_of_the_loaded_model(tiny_folder):
    edit_json(tiny_folder / "generation_config.json", eos_token_id=[0, 2])
    model = Model(id=str(tiny_folder), dtype="float32")
    loaded = load_pretrained(model, device=torch.device("cpu"))
    (tiny_folder / "model.safetensors").unlink()
    alone = load_tokenizer(model)
    assert alone.stop_ids == loaded.stop_ids == (0, 2)
    assert alone.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    assert alone.folder == loaded.folder


@pytest.mark.parametrize("config_eos", [None, 0, [0, 7]])
@pytest.mark.parametrize("generation_eos", ["no file", "not named", 5, [0, 5]])
def test_stop_tokens_are_those_that_transformers_reads_from_the_folder(tiny_folder, config_eos, generation_eos):
    edit_json(tiny_folder / "config.json", eos_token_id=config_eos)
    path = tiny_folder / "generation_config.json"
    if generation_eos == "no file":
        path.unlink()
    elif generation_eos == "not named":
        edit_json(path, without=("eos_token_id",))
    else:
        edit_json(path, eos_token_id=generation_eos)
    expected = AutoModelForCausalLM.from_pretrained(tiny_folder).generation_config.eos_token_id
    tokenizer = read_tokenizer(tiny_folder)
    assert read_stop_ids(tiny_folder, tokenizer) == stop_ids(expected, tokenizer)


def test_an_end_token_that_no_file_states_is_not_assumed(tiny_folder):
    """LlamaConfig fills in 2, whatever token that is."""
    edit_json(tiny_folder / "config.json", without=("eos_token_id",))
    (tiny_folder / "generation_config.json").unlink()
    edit_json(tiny_folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    (tiny_folder / "chat_template.jinja").unlink()
    assert load_tokenizer(Model(id=str(tiny_folder))).stop_ids == (0,)


def test_a_folder_that_cannot_be_trained_is_refused_before_its_tokenizer_is_read(tiny_folder):
    edit_json(tiny_folder / "config.json", model_type="gpt2")
    with pytest.raises(RecipeError, match="not Llama-shaped"):
        load_tokenizer(Model(id=str(tiny_folder)))


def test_the_weights_of_a_hub_model_are_not_fetched(fake_hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    found = load_tokenizer(Model(id="owner/tiny"))
    assert found.tokenizer.tokenize("42") == ["4", "2"]
    assert not [path for path in fake_hub.paths("GET") if path.endswith(".safetensors")]


def test_a_cached_tokenizer_does_not_pass_for_a_cached_model(fake_hub, tmp_path):
    def settings(is_offline: bool) -> HubSettings:
        return HubSettings(cache_dir=tmp_path / "hub", is_offline=is_offline)

    small = fetch_snapshot("owner/tiny", None, settings(False), with_weights=False)
    assert fetch_snapshot("owner/tiny", None, settings(True), with_weights=False).folder == small.folder
    with pytest.raises(HubError, match="not in the cache"):
        fetch_snapshot("owner/tiny", None, settings(True))
    whole = fetch_snapshot("owner/tiny", None, settings(False))
    assert fetch_snapshot("owner/tiny", None, settings(True)).folder == whole.folder


def test_a_hub_repository_without_configuration_is_refused(fake_hub, tmp_path):
    fake_hub.files = {"model.safetensors": fake_hub.files["model.safetensors"]}
    with pytest.raises(RecipeError, match=r"no config\.json"):
        fetch_snapshot("owner/tiny", None, HubSettings(cache_dir=tmp_path / "hub"), with_weights=False)


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_text_is_split_as_tokenizer_json_says_whatever_class_is_named(tiny_folder, name):
    """GPT2Tokenizer, which SmolLM2 names on the hub, rebuilds the pipeline without the digit splitting."""
    edit_json(tiny_folder / "tokenizer_config.json", tokenizer_class=name)
    assert read_tokenizer(tiny_folder).tokenize("the  42") == ["t", "he", "ĠĠ", "4", "2"]


def test_a_missing_pad_token_becomes_the_end_token(tiny_folder):
    edit_json(tiny_folder / "tokenizer_config.json", without=("pad_token",))
    assert read_tokenizer(tiny_folder).pad_token == "<|im_end|>"


def test_a_pad_token_of_the_model_is_kept(tiny_folder):
    edit_json(tiny_folder / "tokenizer_config.json", pad_token="<|endoftext|>")
    assert read_tokenizer(tiny_folder).pad_token == "<|endoftext|>"


def test_a_missing_chat_template_stays_missing(tiny_folder):
    assert "im_start" in read_tokenizer(tiny_folder).chat_template
    (tiny_folder / "chat_template.jinja").unlink()
    assert read_tokenizer(tiny_folder).chat_template is None


def test_a_tokenizer_without_an_end_token_is_refused(tiny_folder):
    edit_json(tiny_folder / "tokenizer_config.json", without=("eos_token",))
    with pytest.raises(RecipeError, match="names no end token"):
        read_tokenizer(tiny_folder)


def test_a_missing_tokenizer_is_named(tiny_folder):
    for path in tiny_folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(StorageError, match="no usable tokenizer"):
        read_tokenizer(tiny_folder)


@pytest.fixture
def llama_3_tokenizer(tiny_folder) -> PreTrainedTokenizerFast:
    """End tokens as Llama 3 has them: <|end_of_text|> for the tokenizer, <|eot_id|> for the template."""
    tokenizer = read_tokenizer(tiny_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"]})
    tokenizer.eos_token = "<|end_of_text|>"
    tokenizer.chat_template = "{{ messages[0]['content'] }}<|eot_id|>"
    return tokenizer


def test_every_end_of_turn_stops(llama_3_tokenizer):
    end, turn = llama_3_tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    assert stop_ids(None, llama_3_tokenizer) == (end, turn)
    assert stop_ids(7, llama_3_tokenizer) == (7, end, turn)
    assert stop_ids([turn, 9], llama_3_tokenizer) == (9, end, turn)
    llama_3_tokenizer.chat_template = None
    assert stop_ids(None, llama_3_tokenizer) == (end,)
