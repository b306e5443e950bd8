"""Recipe -> torch optimizer, and its state as named tensors (never by position, never by rank)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from whet.errors import StorageError
from whet.recipe.schema import Optim


def decays(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices: not for biases and norm weights (Hugging Face's rule)."""
    return parameter.ndim >= 2 and not name.endswith("bias")


def build_optimizer(
    named: Mapping[str, nn.Parameter], optim: Optim, *, lr_ratio: float = 1.0
) -> torch.optim.AdamW:  # fmt: skip
    """AdamW over `named`, moments in each parameter's own dtype (float32 or wider), one fused kernel.

    B factors of an adapter learn `lr_ratio` times as fast as the rest (LoRA+, arXiv:2402.12354): their group has that
    `lr_scale`, which whoever sets the rate of a step multiplies in.
    """
    kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        decay = optim.weight_decay if decays(name, parameter) else 0.0
        lr_scale = lr_ratio if ".lora_B." in name else 1.0
        kinds.setdefault((decay, lr_scale), []).append(parameter)
    groups = [
        {"params": params, "weight_decay": decay, "lr_scale": lr_scale, "lr": optim.lr * lr_scale}
        for (decay, lr_scale), params in kinds.items()
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


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
    keys = {name.rsplit(".", 1)[1] for name in tensors}
    expected = {f"{name}.{key}" for name in named for key in keys}
    if expected != set(tensors):
        odd = sorted(expected.symmetric_difference(tensors))[:3]
        raise StorageError(
            f"the saved optimizer state does not belong to these parameters (differs at {', '.join(odd)})",
            mend="resume with the recipe that wrote the checkpoint",
        )
    for name, parameter in named.items():
        state = {key: tensors[f"{name}.{key}"] for key in sorted(keys)}
        for key, value in state.items():
            if key != "step" and value.shape != parameter.shape:
                raise StorageError(f"saved optimizer state {name}.{key} has shape {tuple(value.shape)}")
            state[key] = value.clone() if key == "step" else value.to(parameter).clone()
        optimizer.state[parameter] = state
