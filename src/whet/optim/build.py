"""Recipe -> torch optimizer, and its state as named tensors (never by position, never by rank)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from whet.errors import StorageError
from whet.optim.eight_bit import AdamW8bit
from whet.optim.master import MasterAdamW
from whet.recipe.schema import Optim

_QUANTIZED = ("exp_avg_codes", "exp_avg_scales", "exp_avg_sq_codes", "exp_avg_sq_scales", "step")
_OF_OTHER_SHAPE = ("step", "exp_avg_scales", "exp_avg_sq_scales")
"""of a parameter's state: what has not the parameter's own shape"""


def decays(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices: not for biases and norm weights (Hugging Face's rule)."""
    return parameter.ndim >= 2 and not name.endswith("bias")


def build_optimizer(
    named: Mapping[str, nn.Parameter], optim: Optim, *, lr_ratio: float = 1.0,
    weights: Mapping[str, nn.Parameter] | None = None, seed: int = 0,
) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW over `named`, moments in each parameter's own dtype (float32 or wider), one fused kernel.

    `weights`, by the same names, are what the model computes with where `named` are their masters. `seed` is for
    roundings at random (`optim.name: adamw_8bit`).

    B factors of an adapter learn `lr_ratio` times as fast as the rest (LoRA+, arXiv:2402.12354): their group has that
    `lr_scale`, which whoever sets the rate of a step multiplies in.
    """
    # a fused kernel takes sharded parameters or whole ones, not both
    kinds: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        decay = optim.weight_decay if decays(name, parameter) else 0.0
        lr_scale = lr_ratio if ".lora_B." in name else 1.0
        kinds.setdefault((decay, lr_scale, isinstance(parameter, DTensor)), []).append(parameter)
    groups = [
        {"params": params, "weight_decay": decay, "lr_scale": lr_scale, "lr": optim.lr * lr_scale}
        for (decay, lr_scale, _), params in kinds.items()
    ]
    settings: dict[str, Any] = {"lr": optim.lr, "betas": optim.betas, "eps": optim.eps}
    if optim.name == "adamw_8bit":
        return AdamW8bit(groups, names={p: name for name, p in named.items()}, seed=seed, **settings)
    if weights:
        return MasterAdamW(groups, weights={named[name]: w for name, w in weights.items()}, fused=True, **settings)
    return torch.optim.AdamW(groups, fused=True, **settings)


def optimizer_tensors(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """State as `<parameter name>.<state name>` -> tensor; empty before the first step."""
    return {
        f"{name}.{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put saved state back; raises StorageError unless it fits the parameters exactly."""
    keys = {name: _keys_of(name, tensors) for name in named}
    expected = {f"{name}.{key}" for name in named for key in keys[name]}
    if expected != set(tensors):
        odd = sorted(expected.symmetric_difference(tensors))[:3]
        raise StorageError(
            f"the saved optimizer state does not belong to these parameters (differs at {', '.join(odd)})",
            mend="resume with the recipe that wrote the checkpoint",
        )
    for name, parameter in named.items():
        state = {key: tensors[f"{name}.{key}"] for key in keys[name]}
        for key, value in state.items():
            if key not in _OF_OTHER_SHAPE and value.shape != parameter.shape:
                raise StorageError(f"saved optimizer state {name}.{key} has shape {tuple(value.shape)}")
            state[key] = value.clone() if key == "step" else value.to(parameter.device, copy=True)
        optimizer.state[parameter] = state


def _keys_of(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What the state of a parameter must have: of 8 bits where there are codes; nothing before the first step."""
    if not tensors:
        return ()
    return _QUANTIZED if f"{name}.{_QUANTIZED[0]}" in tensors else ("exp_avg", "exp_avg_sq", "step")
