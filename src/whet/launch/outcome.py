"""The exit code of a launch: torchrun returns 1 whatever its ranks return, so what each rank wrote down decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.errors import InterruptedRunError, PeerLostError
from whet.parallel.status import RankStatus

UNEXPECTED = 1
_INTERRUPTED, _PEER_LOST = InterruptedRunError.exit_code, PeerLostError.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a launch ended."""

    exit_code: int
    sentence: str
    is_known: bool = True
    """whether a rank said why; else torchrun's own words are all there is"""


def of_this_launch(before: Sequence[RankStatus], now: Sequence[RankStatus]) -> list[RankStatus]:
    """What ranks wrote since `before`; the rest is an earlier run's, perhaps of more ranks.

    No clock is asked: those of two machines differ.
    """
    return [status for status in now if status not in before]


def outcome_of(launcher_code: int, ends: Sequence[RankStatus], *, was_asked_to_stop: bool) -> Outcome:
    """The exit code that stands for all ranks.

    A rank with an error of its own speaks for the run, a known cause before an unexpected one. Ranks that only lost
    it (7), or were stopped because of it (75), speak where no rank has one.
    """
    if launcher_code == 0:
        return Outcome(exit_code=0, sentence="all ranks finished")
    failed = sorted((end for end in ends if end.state == "failed"), key=lambda end: end.time)
    known = [end for end in failed if end.exit_code not in (None, UNEXPECTED, _PEER_LOST)]
    if known:
        return _failure(known[0])
    # an unexpected error after the first loss is its echo
    if failed and failed[0].exit_code != _PEER_LOST:
        return _failure(failed[0])
    if was_asked_to_stop:
        return Outcome(exit_code=_INTERRUPTED, sentence="stopped as asked; the same command continues")
    if killed := [end for end in ends if end.state == "running"]:
        names = ", ".join(f"{end.rank} on {end.host}" if end.host else str(end.rank) for end in killed)
        return Outcome(
            exit_code=_PEER_LOST,
            sentence=f"rank {names} ended without a word (killed, out of memory, or its machine is gone); "
            "the same command continues from the last checkpoint",
        )
    if failed:
        return _failure(failed[0])
    if any(end.state == "interrupted" for end in ends):
        return Outcome(exit_code=_INTERRUPTED, sentence="interrupted; the same command continues")
    return Outcome(exit_code=UNEXPECTED, sentence="no rank said why it ended", is_known=False)


def _failure(end: RankStatus) -> Outcome:
    first_line = end.error.strip().partition("\n")[0]
    return Outcome(
        exit_code=end.exit_code or UNEXPECTED, sentence=f"rank {end.rank} ended the run: {first_line or 'no message'}"
    )
