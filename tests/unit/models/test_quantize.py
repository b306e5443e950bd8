"""A quantized base is loaded as asked or refused by name, never silently left out; adapters train on top of it."""

from __future__ import annotations

import importlib.util

import pytest
import tiny
import torch
from torch import nn

from whet.errors import RecipeError
from whet.models.load import load_pretrained
from whet.models.quantize import quantize_linears
from whet.recipe.schema import Adapter, Model

CPU = torch.device("cpu")
IDS = torch.arange(3, 60)[None]
NF4 = torch.tensor(
    [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626,
     0.7230, 1.0]
)  # fmt: skip
"""The 16 levels (QLoRA, appendix E), to four digits."""


@pytest.fixture
def bitsandbytes():
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits[0].float()


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_without_the_library_it_is_refused_before_the_model_is_looked_for(monkeypatch, method):
    monkeypatch.setattr("whet.models.quantize.importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=rf"model.quantize: .*{method}(.|\n)*whet\[quantize\]"):
        load_pretrained(Model(id="./no-such-folder", quantize=method), device=CPU)


def test_float64_is_refused(bitsandbytes):
    with pytest.raises(RecipeError, match="float64"):
        load_pretrained(Model(id="./no-such-folder", quantize="nf4", dtype="float64"), device=CPU)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("method", "largest"), [("nf4", 0.35), ("int8", 0.05)])
def test_a_loaded_base_is_near_and_says_how_it_is_kept(bitsandbytes, tiny_folder, method, largest, dtype):
    exact = load_pretrained(Model(id=str(tiny_folder), dtype=dtype), device=CPU)
    kept = load_pretrained(Model(id=str(tiny_folder), dtype=dtype, quantize=method), device=CPU)
    assert kept.identity.weights_sha256 == exact.identity.weights_sha256
    assert kept.identity.note.endswith(f"14 linear layers kept in {method} by bitsandbytes")
    assert type(kept.model.get_output_embeddings()) is nn.Linear
    assert not any(
        p.requires_grad for p in kept.model.model.layers.parameters() if p.dtype in (torch.int8, torch.uint8)
    )
    distance = tiny.distance(logits(kept.model), logits(exact.model))
    assert 0 < distance < largest


def test_nf4_keeps_sixteen_levels_per_block_of_64(bitsandbytes):
    """Read back by hand from the weight's values: every one is a level times its block's largest."""
    import bitsandbytes as bnb

    model = tiny.tiny_llama(torch.float32)
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    quantize_linears(model, "nf4", device=CPU, dtype=torch.float32)
    weight = model.model.layers[0].mlp.up_proj.weight
    after = bnb.functional.dequantize_4bit(weight.data, weight.quant_state).reshape(-1, 64)
    largest = before.reshape(-1, 64).abs().amax(1, keepdim=True)
    nearest = NF4[(before.reshape(-1, 64, 1) / largest[..., None] - NF4).abs().argmin(-1)] * largest
    # the scales are rounded to 8 bits as well
    assert tiny.distance(after, nearest) < 0.02


@pytest.mark.parametrize("init", ["default", "eva"])
@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_an_adapter_starts_as_the_quantized_base_and_gets_gradients(bitsandbytes, method, init):
    model = tiny.tiny_llama(torch.float32)
    names = quantize_linears(model, method, device=CPU, dtype=torch.float32)
    assert len(names) == 14 and "lm_head" not in names
    before = logits(model)
    trainables = tiny.attach(model, Adapter(rank=4, alpha=8.0, init=init))
    assert torch.equal(logits(model), before)
    tiny.perturb(trainables)
    model(IDS, labels=IDS).loss.backward()
    assert len(trainables.named) == 2 * len(names)
    assert all(bool((p.grad != 0).any()) and p.dtype == torch.float32 for p in trainables.named.values())
    assert {p.dtype for n, p in model.named_parameters() if "base_layer" in n} <= {torch.uint8, torch.int8}


def test_int8_does_not_talk_at_every_layer(bitsandbytes, caplog):
    model = tiny.tiny_llama(torch.float32)
    quantize_linears(model, "int8", device=CPU, dtype=torch.float32)
    logits(model)
    assert "MatMul8bitLt" not in caplog.text
