"""Which fast paths a model instance gets, and the sentence about each that the run summary keeps."""

from __future__ import annotations

from torch import nn

from whet.kernels import attention, lora_linear


def install(model: nn.Module, *, adapter_name: str | None, start_name: str | None = None) -> dict[str, str]:
    """Install attention and, where there is an adapter, the LoRA function; returns {operation: what runs and why}."""
    attention.install(model)
    device = next(model.parameters()).device
    chosen = {
        "attention": "per document, "
        + (f"matrix products up to {attention.LONGEST_MATMUL_DOCUMENT} tokens" if device.type == "cpu" else "SDPA"),
        "loss head": "taught positions only, in chunks; full logits never exist",
    }
    if adapter_name is not None:
        num_changed, reasons = lora_linear.install(model, adapter_name, start_name)
        sentence = f"fused function in {num_changed} layers"
        if reasons:
            sentence += f", PEFT's in {len(reasons)} ({reasons[0]})"
        chosen["adapter"] = sentence
    return chosen
