"""The learning rate is a pure function of the step: nothing to save, nothing to resume wrongly."""

from __future__ import annotations

import math

from whet.recipe.schema import Optim


def lr_at(step: int, optim: Optim, *, total_steps: int, warmup_steps: int) -> float:
    """Learning rate of 0-based optimizer step `step`, Hugging Face's closed forms.

    Warm-up: lr * step / warmup_steps (the first step has rate 0 when there is a warm-up). After it, with
    x = (step - warmup) / (total - warmup): cosine lr * (1 + cos(pi x)) / 2, linear lr * (1 - x), constant lr.
    """
    if step < warmup_steps:
        return optim.lr * step / max(1, warmup_steps)
    if optim.schedule == "constant":
        return optim.lr
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if optim.schedule == "linear":
        return optim.lr * max(0.0, 1.0 - progress)
    return optim.lr * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
