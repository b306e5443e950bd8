"""Decoder layers that add attention's output to the residual stream and norm the sum in one pass, per instance.

For devices with Triton's kernels: the sum is written while the norm reads it, and in the backward pass both of its
gradients are added up in the norm's own kernel. A call asks the class where the norm is no longer the one that
`norm.install` left (recomputed, hooked), or where nothing is known of the arguments.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn

from whet.kernels import norm
from whet.kernels.lora_linear import has_hooks


def install(model: nn.Module) -> int:
    """Change every plain Llama layer whose second norm is ours; how many. Undone by `uninstall`."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    layers: list[Any] = [module for module in model.modules() if type(module) is LlamaDecoderLayer]
    plain = [layer for layer in layers if "forward" not in vars(layer)]
    ours = [layer for layer in plain if norm.is_installed(layer.post_attention_layernorm)]
    for layer in ours:
        layer.forward = MethodType(_forward, layer)
    return len(ours)


def uninstall(model: nn.Module) -> None:
    """Give every layer its own class's forward back."""
    for layer in model.modules():
        if getattr(vars(layer).get("forward"), "__func__", None) is _forward:
            del layer.__dict__["forward"]


def _forward(layer: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    second = layer.post_attention_layernorm
    if args or not norm.is_installed(second) or has_hooks(second):
        out: Tensor = type(layer).forward(layer, hidden_states, *args, **kwargs)
        return out
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
    hidden_states, normed = norm.add_rms_norm(attended, hidden_states, second.weight, second.variance_epsilon)
    return hidden_states + layer.mlp(normed)
