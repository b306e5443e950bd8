"""The JSON of a checkpoint, checked before anything of a run is changed by it.

A manifest proves that a file is the one that was written, not that whet wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from whet.checkpoint.load import Checkpoint
from whet.errors import StorageError
from whet.types import RunPlan

STATE = "trainer_state.json"
PLAN = "run_plan.json"
_MOST_STEPS = 2**53
_MEND = "continue from another checkpoint (--resume FOLDER), or start anew with --fresh"


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """trainer_state.json with the types that resuming relies on; StorageError names what is malformed."""
    state = checkpoint.document(STATE)
    where = str(checkpoint.folder / STATE)
    if not isinstance(state, dict):
        raise _malformed("a JSON object is expected", where)
    for name in ("global_step", "best_step", "num_without_improvement"):
        is_optional = name != "global_step"
        if not _is_count(state.get(name, 0 if name == "num_without_improvement" else None), or_none=is_optional):
            raise _malformed(f"`{name}` is no number of steps", where)
    if state["global_step"] != checkpoint.step:
        raise _malformed(f"`global_step` is {state['global_step']}, but the checkpoint is of {checkpoint.step}", where)
    if not _is_number_or_none(state.get("best_metric")) or "best_metric" not in state or "best_step" not in state:
        raise _malformed("`best_metric` is no finite number, or it is missing", where)
    base, callbacks = state.get("base"), state.get("callbacks")
    if not isinstance(base, dict) or not all(isinstance(base.get(name), str) for name in ("id", "weights_sha256")):
        raise _malformed("`base` does not say which weights were trained on", where)
    if not isinstance(state.get("data_fingerprint"), str):
        raise _malformed("`data_fingerprint` is missing", where)
    if not isinstance(callbacks, dict) or not all(isinstance(each, dict) for each in callbacks.values()):
        raise _malformed("`callbacks` is no object of objects", where)
    return state


def read_plan(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of run_plan.json that this whet knows; StorageError names one that no plan can have."""
    document, where = checkpoint.document(PLAN), str(checkpoint.folder / PLAN)
    if not isinstance(document, Mapping):
        raise _malformed("a JSON object is expected", where)
    known = {name: document[name] for name in (each.name for each in fields(RunPlan)) if name in document}
    try:
        plan = _plan_adapter().validate_python(known)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _malformed(f"`{place}`: {first['msg']}", where) from error
    counts = (plan.world_size, plan.micro_batch, plan.accumulation, plan.global_batch, plan.steps_per_epoch)
    if min(counts) < 1 or not 0 <= plan.total_steps < _MOST_STEPS:
        raise _malformed("a plan needs at least one rank, row and step", where)
    return known


@cache
def _plan_adapter() -> TypeAdapter[RunPlan]:
    return TypeAdapter(RunPlan)


def _is_count(value: object, *, or_none: bool) -> bool:
    if value is None:
        return or_none
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_STEPS


def _is_number_or_none(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _MOST_STEPS if isinstance(value, int) else math.isfinite(value)


def _malformed(what: str, where: str) -> StorageError:
    return StorageError(what, where=where, mend=_MEND)
