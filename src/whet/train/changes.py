"""What is different from when a run began: refused with every difference, or accepted on request and remembered.

Free of torch, so that the command line refuses a changed recipe before it spends seconds on imports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from whet.errors import RecipeError
from whet.recipe.measured import best_name, measured_names
from whet.recipe.schema import Recipe

# These may change between an interrupted run and its continuation: no weight depends on them. So may `evaluate`,
# but for the set that decides what is best.
FREE_TO_CHANGE = (
    "tracking", "tracked_as", "train.keep", "train.threads", "output", "name",
    # how a step is computed, up to rounding
    "batch.micro_size", "train.memory_gb", "train.recompute", "train.loss_head", "train.compile", "parallel",
)  # fmt: skip
_OTHER_WEIGHTS = "the saved weights are of an adapter of another form"
_OTHER_STATE = "the saved optimizer state is of another kind"
_OTHER_BEST = "what is best so far was measured otherwise"
NEVER = {
    "adapter": _OTHER_WEIGHTS,
    "optim.name": _OTHER_STATE,
    "optim.master": _OTHER_STATE,
    "train.best_metric": _OTHER_BEST,
    "train.best_direction": _OTHER_BEST,
    "data.validation": _OTHER_BEST,
    "evaluate": _OTHER_BEST,
    "rows validation": _OTHER_BEST,
}
"""changes with which no checkpoint can be continued, and why"""
_BUT_THESE = ("adapter.dropout", "adapter.lr_ratio")
_DECIDES = ("source", "max_new_tokens", "temperature", "top_p", "stop", "judge", "every", "max_rows")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One input that is not what it was."""

    what: str
    """`optim.lr`, `data file rows.jsonl`"""
    before: Any
    """None: there was none"""
    now: Any
    """None: there is none"""

    def __str__(self) -> str:
        return f"{self.what}: {_shown(self.before)} -> {_shown(self.now)}"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value[:_SHOWN_DIGITS]
    return repr(value)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, prefix: str = "") -> list[Change]:
    """Every name whose value differs, in the order of the alphabet."""
    return [
        Change(what=f"{prefix}{name}", before=before.get(name), now=now.get(name))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def recipe_changes(before: Recipe, now: Recipe) -> list[Change]:
    """Settings on which weights depend, by their dotted names."""
    old, new = (_flat(asdict(each) | {"evaluate": _deciding_set(each)}) for each in (before, now))
    return [change for change in differences(old, new) if not is_below(change.what, FREE_TO_CHANGE)]


def settle(
    changes: Sequence[Change], *, where: str, is_accepting: bool, say: Callable[[str], None] = lambda _: None
) -> list[str]:
    """The changes in words, each told; RecipeError with all of them unless they are accepted and can be."""
    lines = [str(change) for change in changes]
    if changes and not is_accepting:
        raise RecipeError(
            "this folder holds a run that was begun with other inputs:\n" + "\n".join(f"  {line}" for line in lines),
            where=where,
            mend="undo the change, go on with it (--accept-changes, which is recorded), choose another `output`, or "
            "start anew with --fresh (the old run is moved aside)",
        )
    if refused := [f"  {change} ({reason})" for change in changes if (reason := why_never(change.what))]:
        raise RecipeError(
            "no run can be continued with:\n" + "\n".join(refused),
            where=where,
            mend="undo these changes, choose another `output`, or start anew with --fresh (the old run is moved aside)",
        )
    for line in lines:
        say(f"accepted: {line}")
    return lines


def why_never(what: str) -> str | None:
    """Why a run cannot be continued when this has changed; None where it can."""
    if is_below(what, _BUT_THESE):
        return None
    return next((reason for name, reason in NEVER.items() if is_below(what, (name,))), None)


def is_below(what: str, names: Sequence[str]) -> bool:
    """Whether a dotted name is one of `names` or lies below one."""
    return any(what == name or what.startswith(f"{name}.") for name in names)


def _deciding_set(recipe: Recipe) -> dict[str, Any]:
    """What decides the values of `train.best_metric`, where an evaluation set gives them."""
    name = best_name(recipe)
    dataset = measured_names(recipe)[name].dataset if name is not None else None
    return {
        entry.name: {key: value for key, value in asdict(entry).items() if key in _DECIDES}
        for entry in recipe.evaluate
        if entry.name == dataset
    }


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, child in items:
        flat |= _flat(child, f"{prefix}.{key}" if prefix else str(key))
    return flat
