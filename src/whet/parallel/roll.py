"""The roll of all ranks: what each said last, and who is to blame when they cannot go on. No sockets, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a rank says of itself, about once a second. Durations are by its own clock, at the time it speaks."""

    host: str = ""
    process: int = 0
    doing: str = "start-up"
    """`data of step 12`"""
    collective: str = ""
    """the one it is in or was in last: `gradient all-reduce of step 12`"""
    num_entered: int = 0
    """collectives it has entered; all ranks enter the same ones in the same order"""
    is_inside: bool = False
    is_patient: bool = False
    """whether the others may take as long as they like to enter this one"""
    seconds_since: float = 0.0
    """since it entered that collective"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One rank on the roll, as the one who keeps the roll knows it."""

    rank: int
    note: Note
    silent_seconds: float = 0.0
    """since it was heard of"""
    is_gone: bool = False
    """its connection was closed without a farewell"""
    error: str = ""
    """what it failed with, where it could still say so"""
    has_left: bool = False
    """it is finished, was stopped, or has itself lost another rank"""
    farewell: str = ""

    @property
    def name(self) -> str:
        """`rank 1 (host node-1, process 4711)`."""
        return f"rank {self.rank} (host {self.note.host}, process {self.note.process})"

    @property
    def waited_seconds(self) -> float:
        """Since it entered its last collective."""
        return self.note.seconds_since + self.silent_seconds


NOBODY = "all ranks are there"
"""how a verdict begins that blames none"""
ENDED = "ended with an error: "
"""what a verdict says of a rank before its error"""


def judge(roll: Sequence[Entry], *, timeout_seconds: float) -> str | None:
    """Why the run cannot go on, naming who is to blame, who waits and in which collective; None while it can.

    What is certain comes first: a closed connection, an error that a rank reported, then silence for
    `timeout_seconds`, then a collective that others entered so long ago.
    """
    for found in (
        _gone([entry for entry in roll if entry.is_gone], roll),
        _failed([entry for entry in roll if entry.error]),
        _silent([entry for entry in roll if entry.silent_seconds >= timeout_seconds], roll),
        _late(roll, timeout_seconds),
    ):
        if found:
            return found
    return None


def blame(roll: Sequence[Entry], *, complaint: str, timeout_seconds: float) -> str:
    """A rank could not finish the collective `complaint`: what can be said of it, certain or not."""
    roll, left = [entry for entry in roll if not entry.has_left], [entry for entry in roll if entry.has_left]
    certain = judge(roll, timeout_seconds=timeout_seconds)
    if certain:
        return certain
    if left:
        return f"{complaint} failed: {left[0].name} has left ({left[0].farewell})"
    furthest = max(entry.note.num_entered for entry in roll)
    behind = [entry for entry in roll if entry.note.num_entered < furthest]
    if behind:
        return _not_entered(sorted(behind, key=lambda entry: -entry.silent_seconds), roll) + _cause(behind)
    quiet = max(roll, key=lambda entry: entry.silent_seconds)
    if cause := _cause(roll):
        return f"{complaint} failed; {quiet.name} was last heard of {quiet.silent_seconds:.0f} s ago{cause}"
    return f"{NOBODY}, but {complaint} failed on one of them: its connections are broken, or its log says why"


_LIVELY_SECONDS = 2.2
_SILENCE = " (stopped, its machine frozen, or cut off from the network)"


def _gone(gone: Sequence[Entry], roll: Sequence[Entry]) -> str:
    if not gone:
        return ""
    first = gone[0]
    text = f"{first.name} is gone: it ended without a word in {first.note.doing} (killed, or out of memory)"
    return text + _others(gone[1:]) + _waiting(first, roll)


def _failed(failed: Sequence[Entry]) -> str:
    return f"{failed[0].name} {ENDED}{failed[0].error}{_others(failed[1:])}" if failed else ""


def _silent(silent: Sequence[Entry], roll: Sequence[Entry]) -> str:
    if not silent:
        return ""
    return _not_entered(silent, roll) + _SILENCE


def _late(roll: Sequence[Entry], timeout_seconds: float) -> str:
    furthest = max(roll, key=lambda entry: entry.note.num_entered)
    late = [entry for entry in roll if entry.note.num_entered < furthest.note.num_entered]
    is_waiting = furthest.note.is_inside and not furthest.note.is_patient
    if not late or not is_waiting or furthest.waited_seconds < timeout_seconds:
        return ""
    return _not_entered(late, roll) + _cause(late)


def _cause(suspects: Sequence[Entry]) -> str:
    """Whoever is quiet may be frozen or cut off, though not yet for the whole time."""
    return _SILENCE if max(entry.silent_seconds for entry in suspects) > _LIVELY_SECONDS else ""


def _not_entered(missing: Sequence[Entry], roll: Sequence[Entry]) -> str:
    """`rank 1 (...) has not entered the gradient all-reduce of step 12; its last sign of life was 43 s ago, in ...`"""
    first = missing[0]
    ahead = [entry for entry in roll if entry.note.num_entered > first.note.num_entered and entry not in missing]
    sign = f"its last sign of life was {first.silent_seconds:.0f} s ago, in {first.note.doing}"
    if not ahead:
        return f"{first.name} does not answer: {sign}{_others(missing[1:])}"
    awaited = max(ahead, key=lambda entry: entry.note.num_entered)
    text = f"{first.name} has not entered the {awaited.note.collective}; {sign}{_others(missing[1:])}"
    return text + _waiting(first, roll)


def _waiting(missing: Entry, roll: Sequence[Entry]) -> str:
    """Who sits in a collective that `missing` is not in."""
    waiting = [
        entry for entry in roll
        if entry.note.is_inside and entry.note.num_entered > missing.note.num_entered and entry.rank != missing.rank
    ]  # fmt: skip
    if not waiting:
        return ""
    longest = max(waiting, key=lambda entry: entry.waited_seconds)
    verb = "waits" if len(waiting) == 1 else "wait"
    where = f"the {longest.note.collective}, for {longest.waited_seconds:.0f} s"
    return f"; {_ranks(waiting)} {verb} in {where}"


def _others(others: Sequence[Entry]) -> str:
    return f"; and so is {_ranks(others)}" if len(others) == 1 else f"; and so are {_ranks(others)}" if others else ""


def _ranks(entries: Sequence[Entry]) -> str:
    """`rank 3`, `ranks 0, 2 and 3`, `ranks 0, 1, 2 and 5 more`."""
    numbers = [str(entry.rank) for entry in entries]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 4:
        return f"ranks {', '.join(numbers[:3])} and {len(numbers) - 3} more"
    return f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"


def silent_for(entry: Entry, seconds: float) -> Entry:
    """`entry` after so many more seconds without a word."""
    return replace(entry, silent_seconds=entry.silent_seconds + seconds)
