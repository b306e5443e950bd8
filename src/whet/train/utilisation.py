"""Model FLOPs utilisation: the products that the model itself needs, by what the GPUs could have done in that time.

    FLOPs of a token = 6 N where all weights train, 4 N + 6 n where an adapter of n numbers trains on N frozen ones

N counts what takes part in products: layers and output head, not the input embedding (PaLM, arXiv:2204.02311, appendix
B). Attention between tokens and whatever recompute does again are left out, so the figure is the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from whet.estimate.devices import recognise


def flops_per_token(model: nn.Module, trainable: Mapping[str, Tensor], *, is_adapter: bool) -> float | None:
    """Forward and backward. None for quantised weights, of which several share a number.

    Works on parameters that lie in parts on several ranks: a part knows the size of the whole.
    """
    if any(not each.is_floating_point() for each in model.parameters()):
        return None
    own = {id(parameter) for parameter in trainable.values()} if is_adapter else set()
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    is_tied = head is not None and head.weight is embedding
    num_weights = sum(p.numel() for p in model.parameters() if id(p) not in own and (is_tied or p is not embedding))
    if not is_adapter:
        return 6.0 * num_weights
    return 4.0 * num_weights + 6.0 * sum(parameter.numel() for parameter in trainable.values())


def utilisation(
    *, flops: float | None, num_tokens: int, seconds: float, device: torch.device, num_devices: int, compute_dtype: str
) -> float | None:  # fmt: skip
    """Share of the peak by the data sheet over all steps, evaluations aside; None where that peak is not known."""
    if flops is None or device.type != "cuda" or compute_dtype != "bfloat16" or seconds <= 0:
        return None
    card = recognise(torch.cuda.get_device_name(device))
    return None if card is None else flops * num_tokens / (seconds * num_devices * card.flops)
