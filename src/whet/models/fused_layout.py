"""LoRA factors on Megatron's fused layers (NeMo) -> factors on the layers that Hugging Face keeps apart.

    linear_qkv   -> q_proj, k_proj, v_proj   rows of B by key-value group: the group's queries, its key, its value
    linear_proj  -> o_proj
    linear_fc1   -> gate_proj, up_proj       rows of B: all of gate, then all of up
    linear_fc2   -> down_proj

A is shared by the parts and therefore duplicated; B is cut by rows. That is exact: each part's rows of B A are its own
rows of B times the same A. The layout is the one of an adapter gathered from all tensor-parallel ranks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from whet.errors import StorageError

PARTS = {
    "linear_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "linear_proj": ("self_attn.o_proj",),
    "linear_fc1": ("mlp.gate_proj", "mlp.up_proj"),
    "linear_fc2": ("mlp.down_proj",),
}
"""fused layer -> its parts in Hugging Face's names"""
_NAME = re.compile(
    r".*?\blayers\.(?P<layer>\d+)\.(?:self_attention|self_attn|mlp)\.(?P<fused>linear_qkv|linear_proj|linear_fc1|linear_fc2)"
    r"\.(?P<factor>adapter\.linear_in|adapter\.linear_out|lora_A|lora_B)\.weight"
)
_FACTORS = {"adapter.linear_in": "lora_A", "adapter.linear_out": "lora_B", "lora_A": "lora_A", "lora_B": "lora_B"}


def is_fused(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any name is one of Megatron's fused layers."""
    return any(_NAME.fullmatch(name) for name in tensors)


def split(tensors: Mapping[str, Tensor], base: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same adapter in Hugging Face's names; `base` is the base's config.json.

    StorageError names a tensor that is no fused factor, or one whose rows do not fit the base.
    """
    result = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise StorageError(f"{name} is no factor of a fused layer", mend="save only the adapter's factors")
        parts = PARTS[match["fused"]]
        factor = _FACTORS[match["factor"]]
        pieces = (
            [tensor.clone() for _ in parts] if factor == "lora_A" else _cut_rows(name, match["fused"], tensor, base)
        )
        for part, piece in zip(parts, pieces, strict=True):
            result[f"model.layers.{int(match['layer'])}.{part}.{factor}.weight"] = piece
    return result


def _cut_rows(name: str, fused: str, b_OR: Tensor, base: Mapping[str, Any]) -> list[Tensor]:
    num_heads = int(base["num_attention_heads"])
    num_groups = int(base.get("num_key_value_heads") or num_heads)
    head_dim = int(base.get("head_dim") or base["hidden_size"] // num_heads)
    hidden, intermediate = int(base["hidden_size"]), int(base["intermediate_size"])
    num_rows = {
        "linear_qkv": (num_heads + 2 * num_groups) * head_dim,
        "linear_proj": hidden,
        "linear_fc1": 2 * intermediate,
        "linear_fc2": hidden,
    }[fused]
    if b_OR.ndim != 2 or b_OR.shape[0] != num_rows:
        raise StorageError(
            f"{name} has shape {tuple(b_OR.shape)}; the base's {fused} has {num_rows} rows",
            mend="gather the adapter from all tensor-parallel ranks, or name its own base",
        )
    if fused == "linear_fc1":
        return [piece.contiguous() for piece in b_OR.split(intermediate)]
    if fused != "linear_qkv":
        return [b_OR]
    heads_per_group = num_heads // num_groups
    by_group = b_OR.view(num_groups, heads_per_group + 2, head_dim, b_OR.shape[1])
    queries, keys, values = by_group.split([heads_per_group, 1, 1], dim=1)
    return [piece.reshape(-1, b_OR.shape[1]).contiguous() for piece in (queries, keys, values)]
