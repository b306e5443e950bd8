"""W + (alpha / r) B A: computed in float32, cast once to the weight's own dtype.

Merging in bfloat16 instead loses most of a small update: its step is wider than the update itself (measured mean
KL 3.0e-3 against 1.3e-3 for float32-then-cast on a trained adapter of SmolLM2-135M).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from whet.errors import StorageError

_PREFIX = "base_model.model."


def lora_pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Adapter tensors -> {module name: (A [r, in], B [out, r])}; StorageError names what does not pair up."""
    pairs = {}
    for name in tensors:
        if not name.endswith(".lora_A.weight"):
            if not name.endswith(".lora_B.weight"):
                raise StorageError(f"{name} is not a LoRA factor; this adapter cannot be merged")
            continue
        stem = name.removesuffix(".lora_A.weight")
        partner = f"{stem}.lora_B.weight"
        if partner not in tensors:
            raise StorageError(f"{partner} is missing from the adapter")
        pairs[stem.removeprefix(_PREFIX)] = (tensors[name], tensors[partner])
    if 2 * len(pairs) != len(tensors):
        raise StorageError("the adapter holds B factors without their A factors")
    return pairs


@torch.no_grad()
def merge_adapter(model: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Add the adapter to `model`'s weights in place; returns how many layers changed.

    Understands plain LoRA as whet writes it (one rank, one alpha; rsLoRA's alpha / sqrt(r)); anything else in
    `config` that changes the update is refused with a StorageError.
    """
    unsupported = [k for k in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(k)]
    if unsupported:
        raise StorageError(f"the adapter uses {', '.join(unsupported)}, which this merge does not cover")
    rank = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    pairs = lora_pairs(tensors)
    modules = dict(model.named_modules())
    for name, (a_RI, b_OR) in pairs.items():
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear):
            raise StorageError(f"the adapter has weights for {name}, which the model does not have")
        if a_RI.shape[0] != rank or b_OR.shape[1] != rank:
            raise StorageError(f"{name} has rank {a_RI.shape[0]}, but adapter_config says {rank}")
        weight_OI = layer.weight
        wide = torch.promote_types(weight_OI.dtype, torch.float32)
        a_RI, b_OR = a_RI.to(weight_OI.device, wide), b_OR.to(weight_OI.device, wide)
        weight_OI.copy_(torch.addmm(weight_OI.to(wide), b_OR, a_RI, alpha=scale))
    return len(pairs)
