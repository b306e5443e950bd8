"""Which loss or gradient norm is a spike: one far above the median of the last steps, in units of their own spread.

    value > median + spike * max(1.4826 * MAD, 1 % of the median)

MAD is the median absolute deviation from the median; 1.4826 makes it the standard deviation of normal values (Hampel,
The Influence Curve and its Role in Robust Estimation, 1974; Leys et al., Detecting outliers, J. Exp. Soc. Psychology
49, 2013). Median and MAD do not move when a few values of the window are spikes themselves; mean and standard deviation
do. The floor of 1 % keeps a window of nearly equal values from making a spike of rounding. Only what is too large is
one: a loss that falls is none. OLMo-core's SkipStepOptimizer judges the same two numbers over a rolling window, and as
it does, nothing is judged before half the window is there.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

_SIGMA_PER_MAD = 1.4826
_SMALLEST_SPREAD = 0.01
"""of the median"""


def highest_usual(values: Sequence[float], *, spike: float) -> float:
    """Above it, a value beside `values` is a spike."""
    median = statistics.median(values)
    mad = statistics.median(abs(value - median) for value in values)
    return median + spike * max(_SIGMA_PER_MAD * mad, _SMALLEST_SPREAD * abs(median))


class Window:
    """Loss and gradient norm of the last steps whose update was made."""

    def __init__(self, *, size: int, spike: float) -> None:
        self._spike = spike
        self._fewest = max(2, size // 2)
        self._values: dict[str, deque[float]] = {
            "loss": deque(maxlen=size),
            "gradient norm": deque(maxlen=size),
        }

    def spike(self, loss: float, grad_norm: float) -> str | None:
        """The spike in words; None where both values are usual, or too few steps are known."""
        for (name, known), value in zip(self._values.items(), (loss, grad_norm), strict=True):
            if len(known) < self._fewest:
                return None
            if value > (highest := highest_usual(known, spike=self._spike)):
                return (
                    f"{name} {value:.4g} is above {highest:.4g} (median {statistics.median(known):.4g} of the last "
                    f"{len(known)} steps)"
                )
        return None

    def add(self, loss: float, grad_norm: float) -> None:
        """A step whose update is made."""
        for known, value in zip(self._values.values(), (loss, grad_norm), strict=True):
            known.append(value)

    def state(self) -> dict[str, list[float]]:
        """Plain JSON."""
        return {name: list(known) for name, known in self._values.items()}

    def load_state(self, state: dict[str, list[float]]) -> None:
        """Go on from `state`; an empty one forgets all."""
        for name, known in self._values.items():
            known.clear()
            known.extend(state.get(name, ()))
