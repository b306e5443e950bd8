"""When the callback `spectral` acts: after multiples of `every`, from warm-up on, not in the cool-down. Pure."""

from __future__ import annotations

from whet.recipe.schema import Callback


def acts_after(callback: Callback, step: int, *, total_steps: int) -> bool:
    """Whether it acts after 1-based optimizer step `step`."""
    return step % callback.every == 0 and callback.warmup_steps <= step <= total_steps - callback.cooldown_steps


def acts_at_all(callback: Callback, *, total_steps: int) -> bool:
    """Whether it acts after any of steps 1 to `total_steps`."""
    last = (total_steps - callback.cooldown_steps) // callback.every * callback.every
    return last >= max(1, callback.warmup_steps)
