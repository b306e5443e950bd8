"""Bytes that a run writes: adapter, checkpoints, the whole run folder. Pure arithmetic."""

from __future__ import annotations

import math
from typing import Literal

from whet.types import RunPlan

FLOAT32_BYTES = 4
NUM_ADAM_MOMENTS = 2
SLACK = 0.10
"""Share added for what is not weights: tokenizer, metrics, answers of the evaluation, a checkpoint being written."""

Method = Literal["lora", "dora", "none"]


def num_checkpoints(plan: RunPlan) -> int:
    """That a run writes by its plan: by its cadence, at the ends of epochs and of the run. One more is written wherever
    a measurement is the best so far, or somebody asks for one."""
    total, cadence, epoch = plan.total_steps, plan.save_every, plan.steps_per_epoch
    num_due = total // cadence + total // epoch - total // math.lcm(cadence, epoch)
    return num_due + (total % cadence != 0 and total % epoch != 0)


def adapter_bytes(num_in_file: int) -> int:
    """Size of a saved adapter; its weights are trained and saved in float32."""
    return num_in_file * FLOAT32_BYTES


def checkpoint_bytes(
    num_trainable: int, num_total: int, method: Method, *, num_in_file: int | None = None,
    saved_bytes_per_weight: int = 4, has_masters: bool = True, moment_bytes: float = NUM_ADAM_MOMENTS * FLOAT32_BYTES,
) -> int:  # fmt: skip
    """Size of one checkpoint.

    An adapter: its file (`num_in_file` weights where it holds more than what trains) and Adam's two moments in
    float32; the base is not saved. All weights (`none`): the model in the saved format, its float32 master copy where
    that format is narrower and there is one, and the two moments.
    """
    moments = math.ceil(num_trainable * moment_bytes)
    is_narrower = method == "none" and saved_bytes_per_weight < FLOAT32_BYTES
    master = num_trainable * FLOAT32_BYTES if is_narrower and has_masters else 0
    final = final_bytes(
        num_trainable, num_total, method, num_in_file=num_in_file, saved_bytes_per_weight=saved_bytes_per_weight
    )
    return final + master + moments


def final_bytes(
    num_trainable: int, num_total: int, method: Method, *, num_in_file: int | None = None,
    saved_bytes_per_weight: int = 4,
) -> int:  # fmt: skip
    """Size of what the run hands over: the adapter, or the whole model."""
    if method == "none":
        return num_total * saved_bytes_per_weight
    return adapter_bytes(num_trainable if num_in_file is None else num_in_file)


def run_bytes(
    num_trainable: int, num_total: int, method: Method, *, keep: int, num_in_file: int | None = None,
    saved_bytes_per_weight: int = 4, has_masters: bool = True, moment_bytes: float = NUM_ADAM_MOMENTS * FLOAT32_BYTES,
) -> int:  # fmt: skip
    """Size of a run folder: the `keep` newest checkpoints, the best one, the final weights, and 10 % slack."""
    checkpoint = checkpoint_bytes(
        num_trainable, num_total, method, num_in_file=num_in_file, saved_bytes_per_weight=saved_bytes_per_weight,
        has_masters=has_masters, moment_bytes=moment_bytes,
    )  # fmt: skip
    final = final_bytes(
        num_trainable, num_total, method, num_in_file=num_in_file, saved_bytes_per_weight=saved_bytes_per_weight
    )
    return math.ceil(((keep + 1) * checkpoint + final) * (1 + SLACK))
