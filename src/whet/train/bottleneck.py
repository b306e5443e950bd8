"""Where the time of a run went, in one sentence with the setting that would help. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_MUCH_WAITING = 0.05
_MUCH_WORK = 0.15
_FEW_TOKENS = 512
"""per forward pass: at 472 SmolLM2 made 240 tokens per processor second, at 1,888 it made 276 (docs/log.md); two passes
of 430 side by side made 1.24 times the tokens of the same one after the other, with two threads each"""

_ADVICE = {
    "data": (_MUCH_WAITING, "waits for rows", "put the token cache on a faster disk (WHET_CACHE)"),
    "save": (_MUCH_WAITING, "waits for checkpoints", "raise train.save_every or train.eval_every"),
    "communication": (
        _MUCH_WORK, "goes into sending gradients and waiting for other ranks",
        "raise batch.global_size, which sends less often, or use fewer ranks",
    ),
    "optimizer": (_MUCH_WORK, "is the optimizer's", "raise batch.global_size: fewer updates for as many tokens"),
    "evaluation": (
        _MUCH_WORK, "measures held-out rows in between", "raise train.eval_every and `every` of the evaluation sets",
    ),
    "other": (_MUCH_WORK, "is spent beside the model", "raise batch.global_size, so that there are fewer steps"),
}  # fmt: skip
"""part -> share from which it is worth a word, what it does, what would help"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """How the forward and backward passes were cut."""

    recompute: str
    tokens_per_pass: float
    num_per_step: int
    """forward passes of a step on each rank"""
    num_lanes: int = 1
    """passes side by side"""


def split(parts: Mapping[str, float], *, seconds: float, evaluation: float) -> dict[str, float]:
    """Seconds of all parts of `seconds` spent in steps, `other` being the rest of them, and of `evaluation`."""
    return {**parts, "other": max(0.0, seconds - sum(parts.values())), "evaluation": evaluation}


def bottleneck(seconds: Mapping[str, float], passes: Passes) -> str:
    """The part that costs most of what a setting could save; else what the model's own arithmetic takes.

    `seconds` is what `split` gives; empty where nothing was measured.
    """
    total = sum(seconds.values())
    if total <= 0 or not seconds.get("forward", 0.0) + seconds.get("backward", 0.0):
        return ""
    shares = {name: value / total for name, value in seconds.items()}
    costly = [name for name, (least, _, _) in _ADVICE.items() if shares.get(name, 0.0) >= least]
    if costly:
        worst = max(costly, key=lambda name: shares[name])
        _, does, mend = _ADVICE[worst]
        return f"{shares[worst]:.0%} of the time {does}: {mend}"
    model = f"{shares['forward']:.0%} of the time is forward and {shares['backward']:.0%} backward"
    if passes.recompute != "none":
        return f"{model}, which computes part of forward again: train.recompute=none saves that where memory allows"
    if passes.tokens_per_pass < _FEW_TOKENS and passes.num_per_step > passes.num_lanes:
        tokens = f"{passes.tokens_per_pass:,.0f} tokens at a time"
        return f"{model}, {tokens}: batch.micro_size=auto makes larger passes, or several side by side"
    return f"{model}, the model's own arithmetic: fewer tokens (data.max_length) or a faster machine would help"
