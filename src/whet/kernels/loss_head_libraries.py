"""The loss head as libraries compute it: torch's `linear_cross_entropy` and liger-kernel's fused function.

The only place that imports liger-kernel. Both take hidden states and head in the number format of the products, and
give what `loss_head.linear_nll_sum` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from whet.errors import RecipeError

LossHead = Literal["chunked", "torch", "liger"]
SENTENCES: dict[LossHead, str] = {
    "chunked": "taught positions only, whet's own in blocks; full logits never exist",
    "torch": "taught positions only, torch's linear_cross_entropy",
    "liger": "taught positions only, liger-kernel's fused linear cross-entropy",
}
"""for the run summary"""


def torch_nll_sum(hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, rows_per_chunk: int) -> Tensor:
    """Through `torch.nn.functional.linear_cross_entropy`, in chunks of rows.

    torch 2.13 adds up in the dtype of its inputs: a sum of thousands in bfloat16 is off by a percent. There the rows'
    losses are taken one by one and summed here, for which torch makes the logits a second time in its backward pass.
    """
    is_narrow = hidden_NE.dtype in (torch.bfloat16, torch.float16)
    # `auto` computes in float32 on CPUs, at a quarter of the speed; chunks of `balanced` have bfloat16 products
    options = nn.LinearCrossEntropyOptions(
        batch_chunk_size=rows_per_chunk,
        chunking_method=None,
        acc_policy="balanced",
        acc_dtype=torch.float32 if is_narrow else None,
        allow_retain_graph=True,
    )
    nll: Tensor = nn.functional.linear_cross_entropy(
        hidden_NE, weight_VE, labels_N, reduction="none" if is_narrow else "sum", options=options
    )
    return nll.sum(dtype=torch.float32) if is_narrow else nll


def liger_nll_sum(hidden_NE: Tensor, weight_VE: Tensor, labels_N: Tensor, _rows_per_chunk: int) -> Tensor:
    """Through liger-kernel's fused linear cross-entropy, which chooses its chunks itself."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    nll: Tensor = liger_fused_linear_cross_entropy(hidden_NE, weight_VE, labels_N, reduction="sum")
    return nll


LIBRARIES: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {"torch": torch_nll_sum, "liger": liger_nll_sum}


def refuse_unusable(kind: LossHead, device: torch.device) -> None:
    """RecipeError when this machine cannot compute the loss head that was asked for."""
    if kind == "torch" and not hasattr(nn.functional, "linear_cross_entropy"):
        raise RecipeError(
            f"torch {torch.__version__} has no linear_cross_entropy",
            where="train.loss_head",
            mend="install torch 2.13 or newer, or leave train.loss_head at auto",
        )
    if kind == "liger" and device.type != "cuda":
        raise RecipeError(
            f"liger-kernel's loss head is written in Triton and does not run on {device.type}",
            where="train.loss_head",
            mend="leave train.loss_head at auto",
        )
    if kind == "liger" and find_spec("liger_kernel") is None:
        raise RecipeError(
            "liger-kernel is not installed",
            where="train.loss_head",
            mend="pip install 'whet[liger]', or leave train.loss_head at auto",
        )
