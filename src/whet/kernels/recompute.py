"""What the backward pass computes anew instead of keeping it: nothing, outputs of norms, feed-forward parts, layers.

| level | kept per token and layer of what the full set is |
|---|---|
| none  | all that the functions of the layer save |
| norms | all but the outputs of the two norms, which follow from their inputs |
| mlp   | as norms, and of the second norm with the feed-forward part its input alone |
| full  | the input of the layer |

Layers and feed-forward parts go through torch.utils.checkpoint (Chen et al., Training Deep Nets with Sublinear Memory
Cost, arXiv:1604.06174, section 4.1). The same functions run on the same numbers, dropout masks included, which are a
function of (seed, step, sample, position, module): losses and gradients are the same to the last bit wherever a
repeated product is.

Everything is set on module instances, over whatever forward they have then, and undone by `uninstall`: install this
last and take it off first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

Recompute = Literal["none", "norms", "mlp", "full"]
_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
_MARK = "_whet_forward_before_recompute"


def install(model: nn.Module, level: Recompute) -> str:
    """Recompute at `level` in every decoder layer of this model instance; what was done, in words.

    RuntimeError when it is installed already; ValueError when a layer is not made of the four parts of a Llama layer.
    """
    if level == "none":
        return "nothing"
    layers = list(_layers(model))
    if any(_MARK in vars(module) for layer in layers for module in layer.modules()):
        raise RuntimeError("recompute is installed already: uninstall it first")
    if level != "full":
        for layer in layers:
            _check_parts(layer)
    wrap = {"norms": _wrap_norms, "mlp": _wrap_mlp, "full": _wrap_layer}[level]
    for layer in layers:
        wrap(layer)
    what = {"norms": "outputs of norms", "mlp": "norms and feed-forward parts", "full": "whole layers"}[level]
    return f"{what} in {len(layers)} layers"


def uninstall(model: nn.Module) -> None:
    """Give every module back the forward it had before `install`."""
    for module in model.modules():
        if _MARK in vars(module):
            before = vars(module).pop(_MARK)
            vars(module).pop("forward")
            if before is not None:
                module.forward = before


def _layers(model: Any) -> Sequence[nn.Module]:
    layers: Sequence[nn.Module] = model.get_decoder().layers
    return layers


def _check_parts(layer: nn.Module) -> None:
    """Other layers (with norms behind attention, or with a residual between norm and MLP) compute something else."""
    names = tuple(name for name, _ in layer.named_children())
    if sorted(names) != sorted(_PARTS):
        raise ValueError(f"a {type(layer).__name__} has the parts {', '.join(names)}, not {', '.join(_PARTS)}")


def _replace(module: Any, forward: Callable[..., Any]) -> None:
    vars(module)[_MARK] = vars(module).get("forward")
    module.forward = forward


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _wrap_layer(layer: Any) -> None:
    _replace(layer, partial(_again, layer.forward))


def _wrap_mlp(layer: Any) -> None:
    """The second norm moves into the feed-forward part, so that one input makes both anew."""
    norm, mlp = layer.post_attention_layernorm.forward, layer.mlp.forward

    def normed_mlp(x: Tensor) -> Tensor:
        out: Tensor = mlp(norm(x))
        return out

    _wrap_norms(layer, names=("input_layernorm",))
    _replace(layer.post_attention_layernorm, _unchanged)
    _replace(layer.mlp, partial(_again, normed_mlp))


def _unchanged(x: Tensor) -> Tensor:
    return x


def _wrap_norms(layer: Any, names: Sequence[str] = ("input_layernorm", "post_attention_layernorm")) -> None:
    outputs = _NormOutputs()
    for name in names:
        norm = getattr(layer, name)
        _replace(norm, partial(outputs.note, norm.forward))
    forward = layer.forward

    def noted_layer(*args: Any, **kwargs: Any) -> Any:
        with outputs.kept_as_inputs():
            return forward(*args, **kwargs)

    _replace(layer, noted_layer)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """Stands for a norm's output, seen in some shape, where autograd would keep it."""

    forward: Callable[[Tensor], Tensor]
    x: Tensor
    x_version: int
    shape: torch.Size


@dataclass(frozen=True, slots=True)
class _Output:
    y: Tensor
    y_version: int
    forward: Callable[[Tensor], Tensor]
    x: Tensor
    x_version: int


class _NormOutputs:
    """Outputs of a layer's norms while the layer runs: functions that save one of them save how to make it."""

    def __init__(self) -> None:
        self._outputs: list[_Output] = []

    def note(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        y = forward(x)
        if y.requires_grad:  # else nothing keeps the input, and keeping it for the output's sake saves nothing
            # the output lives until the layer ends, so that no other tensor can lie at its address meanwhile
            self._outputs.append(_Output(y, y._version, forward, x.detach(), x._version))
        return y

    @contextmanager
    def kept_as_inputs(self) -> Iterator[None]:
        """Tensors that autograd saves inside are looked up among the outputs."""
        try:
            with saved_tensors_hooks(self._pack, _unpack):
                yield
        finally:
            self._outputs.clear()

    def _pack(self, saved: Tensor) -> Tensor | _Recipe:
        for output in self._outputs:
            if _is_same(saved, output.y) and output.y._version == output.y_version:
                return _Recipe(output.forward, output.x, output.x_version, saved.shape)
        return saved


def _is_same(saved: Tensor, y: Tensor) -> bool:
    return (
        saved.data_ptr() == y.data_ptr()
        and saved.dtype == y.dtype
        and saved.numel() == y.numel()
        and saved.is_contiguous()
        and y.is_contiguous()
    )


def _unpack(kept: Tensor | _Recipe) -> Tensor:
    if not isinstance(kept, _Recipe):
        return kept
    if kept.x._version != kept.x_version:
        raise RuntimeError("the input of a norm was changed in place before its output was made anew")
    with torch.no_grad():
        return kept.forward(kept.x).view(kept.shape)
