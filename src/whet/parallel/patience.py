"""A second group of all ranks, over gloo, in which they may wait an hour for each other.

For what takes some ranks longer than a step may: loading weights, planning an evaluation. The watch notices meanwhile
when a rank dies or is stopped.
"""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

WAIT_SECONDS = 3600
_group: dist.ProcessGroup | None = None


def form() -> None:
    """All ranks form the group, right after the first one."""
    global _group
    # gloo moves texts whatever the model's device
    _group = dist.new_group(backend="gloo", timeout=timedelta(seconds=WAIT_SECONDS))


def dissolve() -> None:
    """The group is left with the first one."""
    global _group
    _group = None


def patient_group() -> dist.ProcessGroup | None:
    """None for one process alone."""
    return _group
