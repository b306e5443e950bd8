"""Names under which trackers are told what a run measures: those of Hugging Face's Trainer, and of the guides."""

from __future__ import annotations

import math
from collections.abc import Mapping

from whet.types import PARTS_OF_STEP, StepRecord

STEP_NAMES = {
    "train/loss": "loss",
    "train/grad_norm": "grad_norm",
    "train/learning_rate": "lr",
    "train/epoch": "epoch",
    "train/tokens_per_second": "tokens_per_second",
    "system/memory_bytes": "memory_bytes",
    "system/gpu_percent": "gpu_percent",
    **{f"time/{part}_seconds": f"{part}_seconds" for part in PARTS_OF_STEP},
}
"""Name -> field of StepRecord."""
LOSS = "train/loss"
EVAL_SECONDS = "eval/seconds"
"""stands in every evaluation"""


def numbers_of_step(record: StepRecord) -> dict[str, float]:
    """By name, without those that this machine does not measure."""
    found = {name: getattr(record, field) for name, field in STEP_NAMES.items()}
    return {name: value for name, value in found.items() if value is not None}


def numbers_of_eval(metrics: Mapping[str, float]) -> dict[str, float]:
    """`eval/<name>` of every metric, and `eval/perplexity` = exp(loss) where it is not one of them."""
    found = {f"eval/{name}": value for name, value in metrics.items()}
    if "loss" in metrics and "perplexity" not in metrics:
        found["eval/perplexity"] = _perplexity(metrics["loss"])
    return found


def _perplexity(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
