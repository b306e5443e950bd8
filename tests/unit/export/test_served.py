"""The folder that a server is given holds the run's weights, its way of asking and its stop tokens."""

import json
import shutil

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from whet.errors import RecipeError, StorageError
from whet.export.served import write_served
from whet.inference.respond import Request, open_responder
from whet.recipe.schema import Adapter


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    base = tiny_runs.write_base(folder / "base")
    tiny_runs.write_adapter_run(folder / "run", base, Adapter(rank=4, alpha=8.0), size=0.3)
    tiny_runs.write_adapter_run(folder / "dora", base, Adapter(method="dora", rank=4, alpha=8.0), size=0.3)
    tiny_runs.write_full_run(folder / "full", base)
    path = folder / "run" / "recipe.yaml"
    text = path.read_text(encoding="utf-8").replace("rows.jsonl}", "rows.jsonl, system: Count well.}")
    path.write_text(text.replace("name: tiny", "name: my run/v2"), encoding="utf-8")
    return folder


def write(place, name, target, *, keeps_adapter=False, **settings):
    return write_served(target, str(place / name), keeps_adapter=keeps_adapter, say=lambda _: None, **settings)


@pytest.mark.parametrize(("name", "served_name"), [("run", "my-run/v2"), ("full", "tiny"), ("base", "base")])
def test_a_server_computes_what_whet_generates_with(place, tmp_path, name, served_name):
    served = write(place, name, tmp_path)
    assert served.name == served_name and served.folder == tmp_path / served_name
    found = AutoModelForCausalLM.from_pretrained(served.folder, dtype=served.dtype, trust_remote_code=False)
    ours = open_responder(Request(name=str(place / name))).loaded.model
    assert {n: p.dtype for n, p in found.named_parameters()} == {n: p.dtype for n, p in ours.named_parameters()}
    for (_, theirs), (_, own) in zip(found.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(theirs, own, rtol=0, atol=0)


def test_weights_of_a_whole_model_are_not_copied(place, tmp_path):
    served = write(place, "base", tmp_path)
    assert (served.folder / "model.safetensors").resolve() == (place / "base" / "model.safetensors").resolve()


def test_what_a_request_is_asked_with_lies_in_the_folder(place, tmp_path):
    served = write(place, "run", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(served.folder, trust_remote_code=False)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], add_generation_prompt=True)["input_ids"]
    assert "<|im_start|>system\nCount well.<|im_end|>" in tokenizer.decode(ids)
    settings = GenerationConfig.from_pretrained(served.folder)
    assert settings.eos_token_id == [0, 2]
    assert settings.do_sample, "or transformers would ignore the temperature of a request"
    assert (settings.temperature, settings.top_k) == (1.0, 0)


def test_an_adapter_lies_beside_its_base_where_the_server_loads_adapters(place, tmp_path):
    served = write(place, "run", tmp_path, keeps_adapter=True)
    assert (served.base, served.adapter_rank) == (place / "base", 4)
    assert not list(served.folder.glob("*.safetensors"))
    config = json.loads((served.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 8, False)
    theirs = load_file(served.adapter / "adapter_model.safetensors")
    own = load_file(place / "run" / "adapter_model.safetensors")
    assert all(torch.equal(theirs[name], own[name]) for name in own) and theirs.keys() == own.keys()


def test_an_adapter_that_vllm_does_not_serve_is_merged_and_it_is_said(place, tmp_path):
    served = write(place, "dora", tmp_path, keeps_adapter=True)
    assert served.adapter is None and (served.folder / "model.safetensors").is_file()
    assert "merged" in served.what and "vLLM does not serve DoRA" in served.what


def test_a_folder_that_holds_no_model_is_told(place, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RecipeError, match=r"holds no config\.json"):
        write(tmp_path, "nothing", tmp_path / "work")
    with pytest.raises(RecipeError, match="no such model folder"):
        write(tmp_path, "not-there", tmp_path / "work")
    (tmp_path / "begun").mkdir()
    shutil.copy(place / "run" / "recipe.yaml", tmp_path / "begun")
    with pytest.raises(StorageError, match="has no final weights yet"):
        write(tmp_path, "begun", tmp_path / "work")
    with pytest.raises(RecipeError, match="is no adapter folder"):
        write(place, "base", tmp_path / "work", base_model="x")
