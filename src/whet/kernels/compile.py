"""Decoder layers through torch.compile, in the form in which transformers writes them, with attention left out.

The graph of a layer breaks once, at attention, whose tiles follow from the documents' lengths; everything else takes
any number of tokens, so nothing is compiled again for another pack. Where an adapter trains, its fused functions are
as fast as what would be compiled, and dropout masks must not become constants of a graph: nothing is compiled.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from torch import nn

from whet import cache
from whet.kernels import attention
from whet.kernels.recompute import Recompute

NAME = f"{attention.NAME}_outside_graphs"
TAKES_OVER = frozenset({"norm", "rotary", "swiglu"})
"""Operations of `select.install` to leave out: compiled, a layer needs no functions of ours."""


def why_not(*, has_adapter: bool, recompute: Recompute) -> str | None:
    """The reason for which layers of this run are not compiled; None where they can be."""
    if has_adapter:
        return "the adapter's fused functions are as fast, and compiling takes a minute"
    if recompute != "none":
        return f"recompute is {recompute}"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler}; install one, or name yours in CXX"
    return None


def install(model: nn.Module) -> str:
    """Compile every decoder layer of this instance at its first use; what was done, in words. `uninstall` undoes it."""
    import torch
    from transformers import AttentionInterface

    cache.keep_compiled_code_private()
    layers = _layers(model)
    for layer in layers:
        layer.compile(dynamic=True)
    AttentionInterface.register(NAME, torch.compiler.disable(attention.attend))
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    return f"{len(layers)} layers through torch.compile, attention outside"


def uninstall(model: nn.Module) -> None:
    """Every layer runs uncompiled again."""
    for layer in _layers(model):
        layer._compiled_call_impl = None
    if model.config._attn_implementation == NAME:  # type: ignore[union-attr]
        model.set_attn_implementation(attention.NAME)  # type: ignore[operator]


def _layers(model: Any) -> list[nn.Module]:
    return list(model.get_decoder().layers)
