"""Attention of all documents of a pack in one kernel of a GPU: torch's own or flash-attn's, whichever works there.

Both read where documents begin from a tensor of the device and how long the longest is from the host, so nothing waits
for the GPU. What a library takes differs between its versions and with the GPU, the number format and the heads: it is
tried once on a small pack and compared with the reference before it is used.

Shape letters: T packed tokens, H query heads, K key/value heads, D head dimension, N documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from whet.errors import RecipeError
from whet.kernels import reference

Kind = Literal["documents", "torch", "flash-attn"]
VarlenAttention = Callable[[Tensor, Tensor, Tensor, Tensor, int, float], Tensor]
"""(q [T, H, D], k and v [T, K, D], offsets int32 [N + 1], longest length, scale) -> [T, H, D]; causal"""
SENTENCES: dict[Kind, str] = {
    "documents": "per document, SDPA",
    "torch": "all documents in one kernel, torch's varlen_attn",
    "flash-attn": "all documents in one kernel, flash-attn",
}
"""for the run summary"""
_PROBE = (3, 1, 70, 6)
_LARGEST_DISTANCE = 0.02
"""of the probe from the reference, relative: bfloat16 rounds to 0.004"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What a kernel must be able to compute."""

    num_query: int
    num_key: int
    size: int
    dtype: torch.dtype


def heads_of(model: nn.Module, dtype: torch.dtype | None = None) -> Heads:
    """Of a transformers model; `dtype` is that of its products, without it that of its weights."""
    config: Any = model.config
    num_query = config.num_attention_heads
    return Heads(
        num_query=num_query,
        num_key=getattr(config, "num_key_value_heads", None) or num_query,
        size=getattr(config, "head_dim", None) or config.hidden_size // num_query,
        dtype=dtype or model.dtype,  # type: ignore[arg-type]
    )


def torch_varlen(function: Callable[..., Tensor]) -> VarlenAttention:
    """`torch.nn.attention.varlen.varlen_attn` of torch 2.10 or later; what it takes is read from its signature."""
    takes = signature(function).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}

    def attend(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, offsets: Tensor, longest: int, scale: float) -> Tensor:
        is_grouped = q_THD.shape[1] != k_TKD.shape[1]
        grouped = {"enable_gqa": True} if is_grouped and "enable_gqa" in takes else {}
        return function(
            q_THD, k_TKD, v_TKD, offsets, offsets, longest, longest, scale=scale, **causal, **grouped
        )  # fmt: skip

    return attend


def flash_varlen(function: Callable[..., Tensor]) -> VarlenAttention:
    """`flash_attn_varlen_func` of flash-attn 2; grouped heads need no argument."""

    def attend(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, offsets: Tensor, longest: int, scale: float) -> Tensor:
        return function(
            q_THD, k_TKD, v_TKD, offsets, offsets, longest, longest, softmax_scale=scale, causal=True,
            deterministic=True,
        )  # fmt: skip

    return attend


def with_repeated_heads(attend: VarlenAttention) -> VarlenAttention:
    """For kernels that want as many key heads as query heads."""

    def repeated(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, offsets: Tensor, longest: int, scale: float) -> Tensor:
        group = q_THD.shape[1] // k_TKD.shape[1]
        k_THD, v_THD = (x.repeat_interleave(group, dim=1) for x in (k_TKD, v_TKD))
        return attend(q_THD, k_THD, v_THD, offsets, longest, scale)

    return repeated


_HOMES: dict[Kind, tuple[str, str, Callable[[Callable[..., Tensor]], VarlenAttention]]] = {
    "torch": ("torch.nn.attention.varlen", "varlen_attn", torch_varlen),
    "flash-attn": ("flash_attn", "flash_attn_varlen_func", flash_varlen),
}
"""module, function and what makes one signature of it; in the order in which they are tried"""


def choose(heads: Heads, device: torch.device) -> Kind:
    """The first library whose function works here; `documents` off CUDA and where none does."""
    if device.type != "cuda":
        return "documents"
    return next((kind for kind in _HOMES if not isinstance(find(kind, heads, device), str)), "documents")


def load(kind: Kind, heads: Heads, device: torch.device) -> VarlenAttention | None:
    """The function of a run's plan, None for `documents` and off CUDA, where there is one way for all plans.

    RecipeError when it does not work here: another function would give other last bits.
    """
    if kind == "documents" or device.type != "cuda":
        return None
    found = find(kind, heads, device)
    if isinstance(found, str):
        raise RecipeError(
            f"the run began with {SENTENCES[kind]}, which does not work here: {found}",
            where="run_plan.json",
            mend="continue with the libraries and the kind of GPU that the run began with, or start anew with --fresh",
        )
    return found


def find(kind: Kind, heads: Heads, device: torch.device) -> VarlenAttention | str:
    """A library's function that was tried on `device`, or why there is none."""
    module, name, bind = _HOMES[kind]
    try:
        attend = bind(getattr(import_module(module), name))
    except (ImportError, AttributeError, OSError) as error:
        return f"no {module}.{name} ({error})"
    reason = why_not(attend, heads, device)
    if reason is not None and heads.num_query != heads.num_key:
        attend = with_repeated_heads(attend)
        reason = why_not(attend, heads, device)
    return attend if reason is None else reason


def why_not(attend: VarlenAttention, heads: Heads, device: torch.device) -> str | None:
    """What is wrong with `attend` on a small pack, values or gradients; None when nothing is."""
    generator = torch.Generator().manual_seed(0)

    def random(num_heads: int) -> Tensor:
        wide = torch.randn(sum(_PROBE), num_heads, heads.size, generator=generator, dtype=torch.float64)
        return wide.to(device, heads.dtype)

    q_THD, k_TKD, v_TKD = (random(num).requires_grad_() for num in (heads.num_query, heads.num_key, heads.num_key))
    do_THD, scale = random(heads.num_query), heads.size**-0.5
    offsets = torch.tensor([0, *_PROBE], device=device).cumsum(0).to(torch.int32)
    try:
        out_THD = attend(q_THD, k_TKD, v_TKD, offsets, max(_PROBE), scale)
        results = [out_THD, *torch.autograd.grad(out_THD, (q_THD, k_TKD, v_TKD), do_THD)]
    except (RuntimeError, TypeError, ValueError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    exact = [x.detach().double().requires_grad_() for x in (q_THD, k_TKD, v_TKD)]
    q_HTD, k_KTD, v_KTD = (x.transpose(0, 1) for x in exact)
    truth_THD = reference.document_attention(q_HTD, k_KTD, v_KTD, _PROBE, scale)
    truth = [truth_THD, *torch.autograd.grad(truth_THD, exact, do_THD.double())]
    distances = [float(((a.double() - b).norm() / b.norm()).detach()) for a, b in zip(results, truth, strict=True)]
    if not all(distance <= _LARGEST_DISTANCE for distance in distances):
        return f"its values or gradients are off by {max(distances):.2g}"
    return None
