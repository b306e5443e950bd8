"""Whichever loader puts a network together, it is the same: weights, logits, tokenizer, gradients of an adapter."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from whet.errors import RecipeError, StorageError
from whet.models import automodel
from whet.models.adapters import attach_lora
from whet.models.load import LoadedModel, load_pretrained
from whet.recipe.schema import Adapter, Model

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
STANDIN = Path(__file__).parents[2] / "support" / "standin_automodel.py"
HERE = "5.23.0"


@pytest.fixture
def standin(monkeypatch, tmp_path):
    """The stand-in on the path, as a package that works with every transformers; its module."""
    publish(monkeypatch, tmp_path, "transformers>=5")
    monkeypatch.setattr(automodel, "require_automodel", lambda device: None)
    return sys.modules["nemo_automodel"]


def publish(monkeypatch, folder: Path, *needs: str) -> None:
    info = folder / "site" / "nemo_automodel-0.7.0.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", "Name: nemo-automodel", "Version: 0.7.0", *(f"Requires-Dist: {n}" for n in needs)]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(info.parent))
    spec = importlib.util.spec_from_file_location("nemo_automodel", STANDIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "nemo_automodel", module)


@pytest.fixture(params=["transformers", "nemo_automodel"])
def load(request):
    """`load(folder, dtype)` through one of the loaders."""
    if request.param == "nemo_automodel":
        request.getfixturevalue("standin")

    def call(folder: Path, dtype: str = "float32") -> LoadedModel:
        return load_pretrained(Model(id=str(folder), dtype=dtype), device=CPU, loader=request.param)

    return call


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_have_the_names_and_shapes_of_the_file_and_the_dtype_that_was_asked_for(load, tiny_folder, dtype):
    loaded = load(tiny_folder, dtype)
    stored = {name: (tuple(t.shape), t) for name, t in load_file(tiny_folder / "model.safetensors").items()}
    found = dict(loaded.model.named_parameters())
    assert {name: tuple(weight.shape) for name, weight in found.items()} == {
        n: shape for n, (shape, _) in stored.items()
    }
    for name, weight in found.items():
        assert weight.dtype == getattr(torch, dtype)
        assert torch.equal(weight, stored[name][1].to(weight.dtype))
    assert loaded.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert not loaded.model.training


def test_logits_and_tokens_are_those_of_transformers(load, tiny_folder):
    loaded = load(tiny_folder)
    expected = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, expected(ids).logits)
    plain = load_pretrained(Model(id=str(tiny_folder), dtype="float32"), device=CPU)
    text = "The price of 7 apples?"
    assert loaded.tokenizer(text)["input_ids"] == plain.tokenizer(text)["input_ids"]
    assert (loaded.stop_ids, loaded.identity) == (plain.stop_ids, plain.identity)


def test_an_adapter_gets_the_gradients_that_it_gets_on_transformers_network(load, tiny_folder):
    plain = load_pretrained(Model(id=str(tiny_folder), dtype="float32"), device=CPU)
    expected, found = adapter_gradients(plain), adapter_gradients(load(tiny_folder))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(bool(gradient.any()) for gradient in found.values())


def adapter_gradients(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    adapter = Adapter(rank=4, targets=("q_proj", "down_proj"), init="gaussian")
    trainables = attach_lora(
        loaded.model, adapter, seed=1, identity=loaded.identity, make_dropout=lambda p, name: torch.nn.Identity()
    )
    ids = torch.arange(30)[None]
    loaded.model(ids, labels=ids).loss.backward()
    return {name: value.grad for name, value in trainables.named.items()}


def test_a_weight_that_is_missing_is_no_random_weight(load, tiny_folder):
    weights = load_file(tiny_folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(4, 64)
    save_file(weights, tiny_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StorageError, match=r"no weights for model.layers.1.mlp.up_proj.weight \(and 1 more\)"):
        load(tiny_folder)


def test_automodel_runs_no_code_of_a_model_and_installs_nothing_of_its_own(standin, tiny_folder):
    load_pretrained(Model(id=str(tiny_folder)), device=CPU, loader="nemo_automodel")
    (call,) = standin.CALLS
    assert call["trust_remote_code"] is False  # its own default trusts whatever an owner that it knows has published
    assert call["local_files_only"] is True and call["use_safetensors"] is True
    assert (call["force_hf"], call["use_liger_kernel"], call["use_sdpa_patching"]) == (True, False, False)


def test_a_package_that_does_not_import_is_named_with_the_reason(standin, monkeypatch, tiny_folder):
    monkeypatch.delattr(standin, "NeMoAutoModelForCausalLM")
    with pytest.raises(RecipeError, match=r"(?s)nemo-automodel cannot be imported.*nemo-automodel.md names versions"):
        load_pretrained(Model(id=str(tiny_folder)), device=CPU, loader="nemo_automodel")


def said(device: torch.device = CPU) -> str:
    with pytest.raises(RecipeError) as caught:
        load_pretrained(Model(id="./nowhere"), device=device, loader="nemo_automodel")
    return str(caught.value)


def test_before_anything_is_fetched_one_reads_what_is_missing(monkeypatch, tmp_path):
    message = said()
    assert "needs the package nemo-automodel, which is not installed" in message
    assert "model.loader" in message and "docs/nemo-automodel.md" in message and "to transformers" in message

    monkeypatch.setattr(automodel.importlib.metadata, "version", {"transformers": HERE, "nemo-automodel": "0.7.0"}.get)
    publish(monkeypatch, tmp_path, "torch>=2.8.0", "transformers==5.18.0")
    assert "nemo-automodel 0.7.0 works with transformers==5.18.0, here is 5.23.0" in said()

    monkeypatch.setattr(automodel.importlib.metadata, "requires", lambda name: ["transformers>=5.18.0"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device is seen" in said()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "train.device chose cpu" in said()

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert "is for one process" in said(CUDA)
