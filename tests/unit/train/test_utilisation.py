"""Model FLOPs utilisation against sums made by hand."""

from __future__ import annotations

import pytest
import torch
from tiny import attach, tiny_llama

from whet.recipe.schema import Adapter
from whet.train import utilisation
from whet.train.utilisation import flops_per_token


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_token_costs_six_products_for_each_weight_but_the_input_embedding(is_tied):
    model = tiny_llama(is_tied=is_tied)
    config = model.config
    head_size = config.hidden_size // config.num_attention_heads
    attention = 2 * config.hidden_size**2 + 2 * config.hidden_size * config.num_key_value_heads * head_size
    block = attention + 3 * config.hidden_size * config.intermediate_size + 2 * config.hidden_size
    expected = config.num_hidden_layers * block + config.hidden_size + config.vocab_size * config.hidden_size
    assert flops_per_token(model, dict(model.named_parameters()), is_adapter=False) == 6 * expected


def test_frozen_weights_need_no_gradient_of_their_own_and_an_adapter_is_counted_once():
    plain = tiny_llama()
    all_weights = flops_per_token(plain, dict(plain.named_parameters()), is_adapter=False) / 6
    model = tiny_llama()
    trainables = attach(model, Adapter(rank=4, alpha=8.0))
    found = flops_per_token(model, trainables.named, is_adapter=True)
    assert found == 4 * all_weights + 6 * trainables.num_parameters


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA GeForce RTX 4090", 165.2e12), ("Tesla T4", None)],
)
def test_a_share_is_that_of_the_peak_of_all_devices(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
    about = {"flops": 6e9, "num_tokens": 1_000_000, "seconds": 10.0, "num_devices": 2}
    share = utilisation.utilisation(**about, device=torch.device("cuda"), compute_dtype="bfloat16")
    assert share == (None if peak is None else pytest.approx(6e15 / (10 * 2 * peak)))
    assert utilisation.utilisation(**about, device=torch.device("cuda"), compute_dtype="float32") is None
    assert utilisation.utilisation(**about, device=torch.device("cpu"), compute_dtype="bfloat16") is None
