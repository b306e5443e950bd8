"""Which rank holds the others up: each one's own seconds travel with the gradients, in a slot of its own.

What a rank spends on its rows and passes is its own; what it spends in the all-reduce is waiting for the slowest.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence

_WINDOW_STEPS = 20
_FEWEST_STEPS = 5
_SLOW = 1.2
_OWN = ("data", "forward", "backward")


class Pace:
    """The seconds of all ranks, one step late: a step's are known when the next one is sent."""

    def __init__(self, rank: int = 0, num_ranks: int = 1) -> None:
        self._rank, self._num_ranks = rank, num_ranks
        self._own_seconds = 0.0
        self._recent: deque[tuple[float, ...]] = deque(maxlen=_WINDOW_STEPS)
        self._totals = [0.0] * num_ranks
        self._num_steps = 0

    def slots(self) -> list[float]:
        """Seconds of this rank's last step in its own place, to be summed over ranks; nothing for one process."""
        if self._num_ranks == 1:
            return []
        return [self._own_seconds if rank == self._rank else 0.0 for rank in range(self._num_ranks)]

    def finished(self, seconds_by_part: Mapping[str, float]) -> None:
        """A step of this rank is over; parts are named as in StepRecord."""
        self._own_seconds = sum(seconds_by_part[f"{part}_seconds"] for part in _OWN)

    def heard(self, seconds_of_ranks: Sequence[float]) -> None:
        """What `slots` summed up to."""
        # the first step has nothing to tell, and the one after it tells of a first step, which warms caches up
        self._num_steps += 1
        if self._num_ranks > 1 and self._num_steps > 2:
            self._recent.append(tuple(seconds_of_ranks))
            self._totals = [total + seconds for total, seconds in zip(self._totals, seconds_of_ranks, strict=True)]

    @property
    def straggler(self) -> int | None:
        """The rank that took more than 1.2 times as long as the median rank over the last steps; None: none did."""
        if len(self._recent) < _FEWEST_STEPS:
            return None
        by_rank = [statistics.median(seconds) for seconds in zip(*self._recent, strict=True)]
        rank, ratio, _ = _slowest(by_rank)
        return rank if ratio > _SLOW else None

    def sentence(self, host_of: Callable[[int], str] = lambda _rank: "") -> str:
        """The slowest rank over all steps, where it is slow; else nothing."""
        if self._num_steps < _FEWEST_STEPS + 2 or self._num_ranks == 1:
            return ""
        rank, ratio, lost_seconds = _slowest(self._totals)
        if ratio <= _SLOW:
            return ""
        host = f" (host {name})" if (name := host_of(rank)) else ""
        return (
            f"rank {rank}{host} is slow: its rows and passes took {ratio:.2f} times as long as the median rank's; "
            f"the others waited {lost_seconds:.0f} s for it"
        )


def _slowest(by_rank: Sequence[float]) -> tuple[int, float, float]:
    """(rank, its seconds relative to the median rank's, and how many more); of two ranks the faster is the median."""
    rank = max(range(len(by_rank)), key=lambda each: by_rank[each])
    # ranks of other tensor groups are not heard of
    typical = statistics.median_low([seconds for seconds in by_rank if seconds > 0] or [0.0])
    return rank, by_rank[rank] / typical if typical > 0 else 1.0, by_rank[rank] - typical
