"""The frozen linear layers in 4 bits (NF4 with quantised scales, QLoRA, arXiv:2305.14314, section 3) or 8 bits.

bitsandbytes holds the numbers; whet replaces the layers itself and says which. Embedding, output head, norms and
adapters keep their format. NF4 rounds every weight to one of 16 levels per block of 64: the base that is trained over
is not quite the base that an export is for.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, Literal

import torch
from torch import nn

from whet.errors import RecipeError

Method = Literal["none", "nf4", "int8", "fp8"]
BY_BITSANDBYTES: tuple[Method, ...] = ("nf4", "int8")
"""held so wherever the model is loaded; float8 is the training run's own"""


def require_quantize(method: Method, dtype: str) -> None:
    """RecipeError when a base in `method` cannot be held here; said before anything is fetched."""
    if method not in BY_BITSANDBYTES:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"a base in {method} needs the package bitsandbytes",
            where="model.quantize",
            mend="pip install 'whet[quantize]', or set model.quantize to none",
        )
    if dtype == "float64":
        raise RecipeError(
            f"a base in {method} is not computed in float64",
            where="model.quantize",
            mend="set model.dtype to auto, bfloat16 or float32",
        )


@torch.no_grad()
def quantize_linears(model: nn.Module, method: Method, *, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Replace the linear layers inside the backbone by quantised ones on `device`; returns their names.

    One layer at a time, so that a model on the CPU arrives on the GPU without ever lying there whole. Products are
    computed in `dtype`.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]
    for name in names:
        parent, _, last = name.rpartition(".")
        linear = model.get_submodule(name)
        setattr(model.get_submodule(parent), last, _quantized(linear, method, device, dtype))
    return names


def _quantized(linear: Any, method: Method, device: torch.device, dtype: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    sizes = linear.in_features, linear.out_features, linear.bias is not None
    layer: Any
    if method == "nf4":
        layer = bnb.nn.Linear4bit(*sizes, compute_dtype=dtype, quant_type="nf4", device="meta")
        layer.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
        # on some CPUs the first evaluation would repack the weights for good, with scales rounded to bfloat16: the
        # base would no longer be the one that was trained over, and widths that 64 does not divide would fail
        layer.support_avx512bf16_for_cpu = False
    else:
        # it would say at every layer of every step that float32 inputs are rounded to float16 on their way to int8
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        layer = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
        layer.weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    layer.bias = linear.bias
    moved: nn.Module = layer.to(device)  # this is where bitsandbytes rounds
    return moved.requires_grad_(False).train(linear.training)
