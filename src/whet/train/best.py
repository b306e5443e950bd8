"""Which step is the best so far by one measured number, and when it is no use to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whet.recipe.measured import PREFIX, best_is_higher, best_name
from whet.recipe.schema import Recipe
from whet.train.callbacks import EvalRecord


@dataclass(slots=True, kw_only=True)
class Best:
    """The best measurement so far; `state` goes into every checkpoint, so that a continued run decides alike."""

    name: str = "loss"
    """what is compared, as in `EvalRecord.metrics`"""
    is_higher_better: bool = False
    min_improvement: float = 0.0
    """in units of what is compared"""
    patience: int | None = None
    step: int | None = None
    value: float | None = None
    num_without_improvement: int = 0
    """measurements since the best one"""

    def note(self, record: EvalRecord) -> bool:
        """Take `record` into account; True when it is the best so far. What is not finite is never the best."""
        if self.name not in record.metrics:
            return False
        value = record.metrics[self.name]
        if not self._improves(value):
            self.num_without_improvement += 1
            return False
        self.step, self.value, self.num_without_improvement = record.step, value, 0
        return True

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.value is None:
            return True
        return (value - self.value if self.is_higher_better else self.value - value) > self.min_improvement

    @property
    def is_out_of_patience(self) -> bool:
        """Early stopping: whether `patience` measurements in a row brought nothing better."""
        return self.patience is not None and self.num_without_improvement >= self.patience

    def state(self) -> dict[str, Any]:
        """Plain JSON, under Hugging Face's names where it has one."""
        return {
            "best_step": self.step,
            "best_metric": self.value,
            "best_metric_name": f"{PREFIX}{self.name}",
            "num_without_improvement": self.num_without_improvement,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.step, self.value = state["best_step"], state["best_metric"]
        # checkpoints from before there was early stopping do not count
        self.num_without_improvement = state.get("num_without_improvement", 0)

    def sentence(self) -> str:
        """Which checkpoint was best and by what; empty where nothing was."""
        if self.step is None or self.value is None:
            return ""
        better = "higher" if self.is_higher_better else "lower"
        return f"checkpoint-best is step {self.step:,}: {PREFIX}{self.name} {self.value:.4g} ({better} is better)"


def best_of(recipe: Recipe) -> Best:
    """What `recipe` calls best, before anything is measured."""
    return Best(
        name=best_name(recipe) or recipe.train.best_metric.removeprefix(PREFIX),
        is_higher_better=best_is_higher(recipe),
        min_improvement=recipe.train.min_improvement,
        patience=recipe.train.patience,
    )
