"""Settings with which a run keeps within so much memory: what only costs time first, then what changes the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from whet.recipe import dump_recipe, parse_recipe
from whet.recipe.schema import Recipe
from whet.train.foresee import Foreseen
from whet.train.memory_savings import Saving, savings

_UNLIMITED_BYTES = 1e15
_SPEED = {
    "batch.micro_size": "the same step in more and smaller passes",
    "train.recompute": "part of each layer is computed a second time",
    "parallel.strategy": "ranks fetch each other's weights, layer by layer",
}
_MATHEMATICS = {
    "model.dtype": "products are rounded to bfloat16",
    "optim.master": "weights and gradients are rounded to bfloat16; updates go to float32 masters",
    "optim.name": "Adam's moments are rounded to 8 bits",
    "model.quantize": "the frozen base is rounded to fewer bits",
    "adapter.rank": "the adapter can express less",
    "data.max_length": "longer rows are dropped or lose the beginning of their prompt",
    "adapter.method": "an adapter is trained in place of all weights",
}
"""setting -> what changing it does, from what harms least to what harms most"""
_ORDER = (*_SPEED, *_MATHEMATICS)

Foresee = Callable[[Recipe, float], Foreseen]
"""recipe and bytes of memory -> what it needs there"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of a proposal."""

    change: str
    """as an override: `train.recompute=full`"""
    saved_bytes: int
    """of a rank's peak, after the changes before it"""
    changes_result: bool
    """whether the mathematics change; else only the time"""
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """How to keep within a limit."""

    limit_bytes: float
    steps: tuple[Step, ...]
    foreseen: Foreseen
    """with them"""

    @property
    def fits(self) -> bool:
        return bool(self.foreseen.fits)


def propose(recipe: Recipe, limit_bytes: float, foresee: Foresee) -> Proposal:
    """Changes with which the peak of a rank keeps within a memory of `limit_bytes`, none where it does as it is.

    Where nothing helps enough, all that help.
    """
    plain = foresee(recipe, _UNLIMITED_BYTES)
    eased, steps = _ease(recipe, plain, limit_bytes, foresee)
    now = foresee(eased, limit_bytes)
    tried: set[str] = set()
    while not now.fits and (saving := _next(eased, now, tried)) is not None:
        tried.add(_key(saving.change))
        changed = _with(eased, saving.change)
        then = foresee(changed, limit_bytes)
        # float32 masters and moments of 8 bits exclude each other, and the latter save more
        if then.peak_bytes < now.peak_bytes and (then.fits or "optim.master" not in saving.change):
            steps.append(_step(saving.change, now.peak_bytes - then.peak_bytes))
            eased, now = changed, then
    kept = tuple(_needed(recipe, steps, limit_bytes, foresee)) if now.fits else tuple(steps)
    ends = foresee(_with(recipe, *(step.change for step in kept)), limit_bytes)
    return Proposal(limit_bytes=limit_bytes, steps=kept, foreseen=ends)


def _ease(
    recipe: Recipe, plain: Foreseen, limit_bytes: float, foresee: Foresee
) -> tuple[Recipe, list[Step]]:  # fmt: skip
    """The recipe with samples of a pass and recompute as a run would choose them within the limit; result unchanged."""
    if foresee(_with(recipe, *_as_planned(plain)), limit_bytes).fits:
        return recipe, []
    chosen = foresee(_with(recipe, "batch.micro_size=auto", "train.recompute=auto"), limit_bytes)
    steps, before, eased = [], plain, _with(recipe, *_as_planned(plain))
    for change in _as_planned(chosen):
        if change in _as_planned(plain):
            continue
        eased = _with(eased, change)
        after = foresee(eased, _UNLIMITED_BYTES)
        steps.append(_step(change, before.peak_bytes - after.peak_bytes))
        before = after
    return eased, steps


def _as_planned(foreseen: Foreseen) -> tuple[str, str]:
    return f"batch.micro_size={foreseen.plan.micro_batch}", f"train.recompute={foreseen.plan.recompute}"


def _next(recipe: Recipe, now: Foreseen, tried: set[str]) -> Saving | None:
    """The change that harms least; of those of one setting the one that saves most."""
    found = [each for each in savings(recipe, now.setting, now.size) if _key(each.change) not in tried]
    return min(found, key=lambda each: (_ORDER.index(_key(each.change)), -each.num_bytes), default=None)


def _needed(recipe: Recipe, steps: Sequence[Step], limit_bytes: float, foresee: Foresee) -> Iterator[Step]:
    """Without changes of the result that turned out not to be needed beside the later ones."""
    kept = list(steps)
    for step in [step for step in steps if step.changes_result][::-1]:
        without = [each.change for each in kept if each is not step]
        if len(kept) > 1 and foresee(_with(recipe, *without), limit_bytes).fits:
            kept.remove(step)
    yield from kept


def _step(change: str, saved_bytes: int) -> Step:
    key = _key(change)
    return Step(
        change=change, saved_bytes=saved_bytes, changes_result=key in _MATHEMATICS,
        effect=(_SPEED | _MATHEMATICS)[key],
    )  # fmt: skip


def _key(change: str) -> str:
    return change.partition("=")[0]


def _with(recipe: Recipe, *changes: str) -> Recipe:
    return parse_recipe(dump_recipe(recipe), "recipe", changes)
