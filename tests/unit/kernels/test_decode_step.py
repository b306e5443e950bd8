"""The short step is only for models that are as transformers made them; its numbers are in numerics/test_generation."""

import types

import pytest
import torch
from tiny import LORA, attach, tiny_llama
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from whet.kernels import select
from whet.kernels.decode_step import build_decode_step


def _is_taken(model):
    return build_decode_step(model, num_rows=4, is_packed=True) is not None


def test_a_plain_llama_is_taken():
    assert _is_taken(tiny_llama(torch.float32)) and _is_taken(tiny_llama(torch.float64))


def test_a_plain_llama_that_trains_through_whets_functions_is_taken():
    model = tiny_llama(torch.float32)
    chosen = select.install(model, adapter_name=None)
    assert chosen["rotary"] == chosen["swiglu"] == "fused function in 2 blocks"
    assert _is_taken(model)


def _adapt(model):
    attach(model, LORA)


def _replace_a_layer(model):
    class Other(nn.Linear):
        pass

    model.model.layers[1].mlp.up_proj = Other(64, 96, bias=False)


def _replace_a_forward(model):
    model.model.layers[0].mlp.forward = types.MethodType(lambda _self, x: x, model.model.layers[0].mlp)


def _replace_a_norm(model):
    model.model.norm = nn.LayerNorm(64)


@pytest.mark.parametrize("change", [_adapt, _replace_a_layer, _replace_a_forward, _replace_a_norm])
def test_a_model_that_computes_something_else_is_not_taken(change):
    model = tiny_llama(torch.float32)
    change(model)
    assert not _is_taken(model)


def test_another_activation_is_not_taken():
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, hidden_act="gelu", bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    assert not _is_taken(LlamaForCausalLM(config))


def test_under_autocast_the_model_s_own_modules_compute():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not _is_taken(tiny_llama(torch.float32))
