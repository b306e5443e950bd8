"""The table of who holds what, by names."""

import pytest
import torch
from tiny import attach, tiny_llama

from whet.parallel.shares import own_parts, own_range, split_dim
from whet.parallel.tensor_group import TensorGroup
from whet.recipe.schema import Adapter

PAIR = [TensorGroup(rank=rank, size=2, processes=None) for rank in range(2)]
THREE = [TensorGroup(rank=rank, size=3, processes=None) for rank in range(3)]


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("model.layers.0.self_attn.q_proj.weight", 0),
        ("model.layers.0.self_attn.q_proj.bias", 0),
        ("model.layers.0.self_attn.o_proj.base_layer.weight", 1),
        ("base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight", None),
        ("base_model.model.model.layers.1.mlp.gate_proj.lora_B.weight", 0),
        ("base_model.model.model.layers.1.mlp.down_proj.lora_A.default.weight", 1),
        ("base_model.model.model.layers.1.mlp.down_proj.lora_A.start.weight", 1),
        ("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight.exp_avg_sq", None),
        ("model.layers.0.mlp.up_proj.weight.exp_avg", 0),
        ("model.embed_tokens.modules_to_save.default.weight", 0),
        ("lm_head.weight", 0),
        ("model.norm.weight", None),
        ("model.layers.0.input_layernorm.weight", None),
    ],
)
def test_a_tensors_name_says_along_what_it_is_split(name, dim):
    assert split_dim(name) == dim


def test_the_ranks_parts_cover_every_place_once_and_differ_by_at_most_one():
    for size in (3, 7, 12, 500):
        parts = [own_range(size, group) for group in THREE]
        assert [place for part in parts for place in part] == list(range(size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_matrix_of_an_adapted_llama_is_split_or_a_factor_that_all_ranks_hold():
    model = tiny_llama(torch.float32, is_tied=False)
    attach(model, Adapter(rank=4, targets="all-linear"))
    whole = [n for n, p in model.named_parameters() if p.ndim > 1 and split_dim(n) is None]
    assert all(".lora_" in name for name in whole)
    # one factor of each of the 7 adapters in both layers
    assert len(whole) == 14


def test_the_parts_of_two_ranks_are_halves_and_a_moments_step_is_not_split():
    named = {
        "q_proj.weight": torch.randn(6, 4),
        "o_proj.weight": torch.randn(4, 6),
        "q_proj.weight.step": torch.ones(()),
    }
    first, second = (own_parts(named, group) for group in PAIR)
    assert torch.equal(torch.cat([first["q_proj.weight"], second["q_proj.weight"]]), named["q_proj.weight"])
    assert torch.equal(torch.cat([first["o_proj.weight"], second["o_proj.weight"]], dim=1), named["o_proj.weight"])
    assert torch.equal(second["q_proj.weight.step"], named["q_proj.weight.step"])
