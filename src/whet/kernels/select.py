"""Which fast paths a model instance gets, and the sentence about each that the run summary keeps."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import nn

from whet.kernels import (
    attention,
    attention_varlen,
    llama_blocks,
    llama_layers,
    lora_linear,
    norm,
    recompute,
    triton_support,
)

SWITCHES = frozenset({"adapter", "qkv", "mlp", "norm", "rotary", "swiglu"})
"""Operations that `install` can leave out; without them all, the model computes as transformers and PEFT do."""


def install(
    model: nn.Module, *, adapter_name: str | None, start_name: str | None = None, off: Set[str] = frozenset(),
    longest_matmul_document: int = attention.LONGEST_MATMUL_DOCUMENT,
    attention_kind: attention_varlen.Kind = "documents", compute_dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> dict[str, str]:  # fmt: skip
    """Install attention, the blocks' and the norms' functions and, where there is an adapter, its own.

    Operations that are `off` are left out, for comparisons; `adapter` takes `qkv` and `mlp` with it. `device`: where
    the model will compute, if it is not there yet. Returns {operation: what runs and why}. Undone by `uninstall`.
    """
    if unknown := off - SWITCHES:
        raise ValueError(f"no such operations: {', '.join(sorted(unknown))}")
    if "adapter" in off:
        off = off | {"qkv", "mlp"}
    uninstall(model)
    weight = next(model.parameters())
    device = device or weight.device
    chosen = {"attention": _select_attention(model, longest_matmul_document, attention_kind, compute_dtype, device)}
    if adapter_name is not None and "adapter" not in off:
        chosen["adapter"] = _sentence(*lora_linear.install(model, adapter_name, start_name), "layers", "PEFT's")
    reports = llama_blocks.install(model, adapter_name=adapter_name, start_name=start_name, off=off)
    for operation, report in reports.items():
        chosen[operation] = _sentence(report.num_changed, report.reasons, "blocks", "the modules' own")
    if "norm" not in off:
        chosen["norm"] = _install_norms(model, device)
    with_kernels = [operation for operation in triton_support.OPERATIONS if operation not in off]
    if (sentence := triton_support.sentence(device, weight.dtype, with_kernels)) is not None:
        chosen["triton"] = sentence
    return chosen | dict.fromkeys(sorted(off), "switched off")


def uninstall(model: nn.Module) -> None:
    """Undo `install`: every module computes as its class does, with the attention that was chosen before."""
    recompute.uninstall(model)  # over the others, so first
    lora_linear.uninstall(model)
    llama_layers.uninstall(model)
    llama_blocks.uninstall(model)
    norm.uninstall(model)
    if (before := model.__dict__.pop(_BEFORE, None)) is not None:
        model.set_attn_implementation(before)  # type: ignore[operator]


_BEFORE = "_whet_attention_before"


def _select_attention(
    model: nn.Module, longest_matmul_document: int, kind: attention_varlen.Kind, compute_dtype: torch.dtype | None,
    device: torch.device,
) -> str:  # fmt: skip
    model.__dict__[_BEFORE] = model.config._attn_implementation  # type: ignore[union-attr]
    varlen = attention_varlen.load(kind, attention_varlen.heads_of(model, compute_dtype), device)
    attention.install(model, longest_matmul_document=longest_matmul_document, varlen=varlen)
    if device.type != "cpu":
        return attention_varlen.SENTENCES[kind]
    return f"per document, matrix products up to {longest_matmul_document} tokens"


def _install_norms(model: nn.Module, device: torch.device) -> str:
    if next(model.parameters()).dtype == torch.float64:
        return "the modules' own: they compute float64 in float32"
    sentence = _sentence(*norm.install(model), "norms", "the modules' own")
    if triton_support.why_not(device) is not None:
        return sentence
    return f"{sentence}, {llama_layers.install(model)} of them with the addition before"


def _sentence(num_changed: int, reasons: list[str], places: str, other: str) -> str:
    sentence = f"fused function in {num_changed} {places}"
    return sentence + (f", {other} in {len(reasons)} ({reasons[0]})" if reasons else "")
