"""What the last bits of a run depend on besides its recipe: processor, versions, threads and how a step is cut.

Free of torch, so that a recorded machine is compared with this one before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_ENVIRONMENT = (
    "device", "cpu", "byte_order", "torch", "transformers", "peft", "tokenizers", "numpy", "python", "whet", "threads",
    "world_size",
)  # fmt: skip
_OF_PLAN = (
    "compute_dtype", "micro_batch", "accumulation", "num_lanes", "recompute", "longest_matmul_document", "attention",
    "loss_head", "is_compiled", "share_prefix",
)  # fmt: skip


def facts_of(environment: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Out of environment.json and run_plan.json of a run."""
    facts = {name: environment[name] for name in _OF_ENVIRONMENT if name in environment}
    return facts | {name: plan[name] for name in _OF_PLAN if name in plan}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`threads: 1 then, 2 now` for each fact that both know and that differs."""
    return [f"{name}: {then[name]} then, {now[name]} now" for name in then if name in now and then[name] != now[name]]
