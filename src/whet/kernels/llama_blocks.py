"""Attention and feed-forward blocks of plain Llama models, computed through the fused functions, per module instance.

What a block computes is what its class computes. Where something that happened after `install` would be passed over
(a hook on a projection, an adapter switched off or merged, another attention chosen), that call asks the modules.

Shape letters: T tokens of all rows, E hidden size, H heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from torch import Tensor, nn

from whet.kernels import attention
from whet.kernels.lora_adapter import Layer
from whet.kernels.lora_linear import has_hooks, is_active, layer_of, lora_linears, why_not
from whet.kernels.lora_mlp import lora_mlp
from whet.kernels.rotary import rotate_both
from whet.kernels.swiglu import swiglu

_QKV = ("q_proj", "k_proj", "v_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(slots=True)
class Report:
    """In how many blocks an operation was installed, and the sentences about blocks that stay as they are."""

    num_changed: int = 0
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Way:
    """How one block computes: which operations it uses, and the adapter they are fused with."""

    operations: frozenset[str]
    adapter_name: str | None
    start_name: str | None

    def layers(self, block: Any, operation: str, names: Iterable[str]) -> list[Layer] | None:
        """What the fused operation computes with; None where this call has to ask the modules."""
        linears = [getattr(block, name) for name in names]
        if operation not in self.operations or not all(is_active(each) and not has_hooks(each) for each in linears):
            return None
        assert self.adapter_name is not None
        return [layer_of(linear, self.adapter_name, self.start_name) for linear in linears]


def install(
    model: nn.Module, *, adapter_name: str | None, start_name: str | None = None, off: Iterable[str] = ()
) -> dict[str, Report]:
    """Let the blocks of this instance use `qkv` and `mlp` (with an adapter), `rotary` and `swiglu`, unless `off`.

    Returns {operation: in how many blocks, and why not in others}. Undone by `uninstall`.
    """
    adapted = ("qkv", "mlp") if adapter_name is not None else ()
    reports = {operation: Report() for operation in (*adapted, "rotary", "swiglu") if operation not in off}
    for name, block in model.named_modules():
        if all(hasattr(block, linear) for linear in _QKV):
            reasons = {"rotary": _why_no_attention(block)}
            reasons["qkv"] = reasons["rotary"] or _why_not_fused(block, _QKV, adapter_name, start_name)
        elif all(hasattr(block, linear) for linear in _MLP):
            reasons = {"swiglu": _why_no_mlp(block)}
            reasons["mlp"] = reasons["swiglu"] or _why_not_fused(block, _MLP, adapter_name, start_name)
        else:
            continue
        used = _tell(name, {o: reasons[o] for o in reports if o in reasons}, reports)
        if used:
            make = _attention_forward if "rotary" in reasons else _mlp_forward
            block.forward = MethodType(make(_Way(used, adapter_name, start_name)), block)
    return reports


def uninstall(model: nn.Module) -> None:
    """Give every block its own class's forward back."""
    for block in model.modules():
        if is_installed(block):
            del block.__dict__["forward"]


def is_installed(module: nn.Module) -> bool:
    """Whether `install` changed this module."""
    return getattr(vars(module).get("forward"), "__module__", None) == __name__


def _tell(name: str, reasons: dict[str, str | None], reports: dict[str, Report]) -> frozenset[str]:
    """Enter a block's operations in the reports; those that it can use."""
    for operation, reason in reasons.items():
        if reason is None:
            reports[operation].num_changed += 1
        else:
            reports[operation].reasons.append(f"{name}: {reason}")
    return frozenset(operation for operation, reason in reasons.items() if reason is None)


def _why_no_attention(block: Any) -> str | None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    return _why_not_as_its_class(block, LlamaAttention)


def _why_no_mlp(block: Any) -> str | None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    if reason := _why_not_as_its_class(block, LlamaMLP):
        return reason
    activation = type(block.act_fn).__name__
    return None if activation in ("SiLU", "SiLUActivation") else f"its activation is {activation}"


def _why_not_as_its_class(block: nn.Module, expected: type[nn.Module]) -> str | None:
    if type(block) is not expected:
        return f"it is a {type(block).__name__}"
    if "forward" in vars(block) and not is_installed(block):
        return "its forward was replaced by something else"
    return None


def _why_not_fused(block: Any, names: Iterable[str], adapter_name: str | None, start_name: str | None) -> str | None:
    for name in names:
        linear = getattr(block, name)
        if adapter_name is None or adapter_name not in getattr(linear, "lora_A", {}):
            return f"{name} has no adapter"
        if reason := why_not(linear, adapter_name, start_name):
            return f"{name}: {reason}"
        if has_hooks(linear):
            return f"{name}: a hook is on it"
    return None


def _attention_forward(way: _Way) -> Callable[..., tuple[Tensor, None]]:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    def forward(
        block: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None, past_key_values: Any = None, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        if block.config._attn_implementation != attention.NAME:
            out: tuple[Tensor, None] = type(block).forward(
                block, hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
            )
            return out
        rows = hidden_states.shape[:-1]
        parts = _projected(block, hidden_states, way)
        q_THD, k_THD, v_THD = (part.reshape(rows.numel(), -1, block.head_dim) for part in parts)
        cos_TD, sin_TD = (each.expand(*rows, -1).reshape(-1, block.head_dim) for each in position_embeddings)
        if "rotary" in way.operations:
            q_THD, k_THD = rotate_both(q_THD, k_THD, cos_TD, sin_TD)
        else:
            q_THD, k_THD = apply_rotary_pos_emb(q_THD, k_THD, cos_TD, sin_TD)
        q, k, v = (heads.view(*rows, -1, block.head_dim).transpose(1, 2) for heads in (q_THD, k_THD, v_THD))
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, block.layer_idx)
        dropout = block.attention_dropout if block.training else 0.0
        heads, _ = attention.attend(block, q, k, v, attention_mask, scaling=block.scaling, dropout=dropout, **kwargs)
        return block.o_proj(heads.reshape(*rows, -1)), None

    return forward


def _projected(block: Any, hidden_states: Tensor, way: _Way) -> tuple[Tensor, ...]:
    """Queries, keys and values, rows of any leading shape."""
    layers = way.layers(block, "qkv", _QKV)
    if layers is None:
        return tuple(getattr(block, name)(hidden_states) for name in _QKV)
    return lora_linears(hidden_states.reshape(-1, hidden_states.shape[-1]), layers)


def _mlp_forward(way: _Way) -> Callable[..., Tensor]:
    def forward(block: Any, x: Tensor) -> Tensor:
        layers = way.layers(block, "mlp", _MLP)
        if layers is not None:
            return lora_mlp(x.reshape(-1, x.shape[-1]), *layers).view(x.shape)
        gate, up = block.gate_proj(x), block.up_proj(x)
        out: Tensor = block.down_proj(swiglu(gate, up) if "swiglu" in way.operations else block.act_fn(gate) * up)
        return out

    return forward
