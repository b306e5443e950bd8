"""A fused adapter split into its parts is the dense fused product, sorted into rows by hand."""

import pytest
import torch
from tiny import tiny_llama

from whet.errors import StorageError
from whet.models import fused_layout
from whet.models.adapter_source import parse_adapter

HIDDEN, INTERMEDIATE, HEADS, GROUPS, HEAD_DIM, RANK = 64, 96, 4, 2, 16, 3
BASE = tiny_llama().config.to_dict()


def factors(name, num_out, num_in, *, seed, suffixes=("adapter.linear_in", "adapter.linear_out")):
    generator = torch.Generator().manual_seed(seed)
    a_RI, b_OR = torch.randn(RANK, num_in, generator=generator), torch.randn(num_out, RANK, generator=generator)
    stem = f"model.decoder.layers.1.{name}"
    return {f"{stem}.{suffixes[0]}.weight": a_RI, f"{stem}.{suffixes[1]}.weight": b_OR}, b_OR @ a_RI


def parts(tensors):
    """Product of every part."""
    split = fused_layout.split(tensors, BASE)
    stems = {name.removesuffix(".lora_A.weight") for name in split if name.endswith("lora_A.weight")}
    return {stem: split[f"{stem}.lora_B.weight"] @ split[f"{stem}.lora_A.weight"] for stem in stems}


@pytest.mark.parametrize("suffixes", [("adapter.linear_in", "adapter.linear_out"), ("lora_A", "lora_B")])
def test_queries_keys_and_values_come_out_of_their_groups(suffixes):
    tensors, dense = factors(
        "self_attention.linear_qkv", (HEADS + 2 * GROUPS) * HEAD_DIM, HIDDEN, seed=0, suffixes=suffixes
    )
    rows = {"q": [], "k": [], "v": []}
    at = 0
    for _ in range(GROUPS):
        for kind in ["q"] * (HEADS // GROUPS) + ["k", "v"]:
            rows[kind] += range(at, at + HEAD_DIM)
            at += HEAD_DIM
    found = parts(tensors)
    for kind, indices in rows.items():
        torch.testing.assert_close(found[f"model.layers.1.self_attn.{kind}_proj"], dense[indices])
    assert len(found) == 3


def test_gate_comes_before_up():
    tensors, dense = factors("mlp.linear_fc1", 2 * INTERMEDIATE, HIDDEN, seed=1)
    found = parts(tensors)
    torch.testing.assert_close(found["model.layers.1.mlp.gate_proj"], dense[:INTERMEDIATE])
    torch.testing.assert_close(found["model.layers.1.mlp.up_proj"], dense[INTERMEDIATE:])


@pytest.mark.parametrize(
    ("fused", "part", "num_in"),
    [("self_attention.linear_proj", "self_attn.o_proj", HIDDEN), ("mlp.linear_fc2", "mlp.down_proj", INTERMEDIATE)],
)
def test_the_other_layers_only_change_their_names(fused, part, num_in):
    tensors, dense = factors(fused, HIDDEN, num_in, seed=2)
    torch.testing.assert_close(parts(tensors)[f"model.layers.1.{part}"], dense)


def test_a_fused_adapter_is_read_like_any_other():
    tensors, _ = factors("mlp.linear_fc1", 2 * INTERMEDIATE, HIDDEN, seed=1)
    update = parse_adapter({"r": RANK, "lora_alpha": 6, "target_modules": ["linear_fc1"]}, tensors, BASE)
    assert {m: layer.scale for m, layer in update.layers.items()} == {
        "model.layers.1.mlp.gate_proj": 2.0,
        "model.layers.1.mlp.up_proj": 2.0,
    }


def test_rows_that_do_not_fit_and_other_tensors_are_refused():
    tensors, _ = factors("mlp.linear_fc1", INTERMEDIATE, HIDDEN, seed=1)
    with pytest.raises(StorageError, match="the base's linear_fc1 has 192 rows"):
        fused_layout.split(tensors, BASE)
    tensors, _ = factors("mlp.linear_fc1", 2 * INTERMEDIATE, HIDDEN, seed=1)
    with pytest.raises(StorageError, match="is no factor of a fused layer"):
        fused_layout.split(tensors | {"model.decoder.final_layernorm.weight": torch.ones(4)}, BASE)


def test_names_of_pefts_are_not_fused():
    assert not fused_layout.is_fused({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1)})
