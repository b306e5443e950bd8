"""What the fault suite found: one line for each fault, gathered over all tests that cause it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

GROUPS = {
    "kill": "Killed and stopped",
    "storage": "Disks that fail",
    "damage": "Damaged files",
    "changes": "Changed between a stop and its continuation",
    "environment": "Surroundings and trackers",
    "hub": "The hub",
    "memory": "Memory",
    "numbers": "Numbers that are not finite, and spikes",
    "security": "Let in from outside",
    "evaluation": "After training",
}
"""group -> its title; the order of the table"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one test found out about one fault. Invariant: 0 <= held <= tries."""

    fault: str
    group: str
    tries: int
    """how often the fault was caused; 0 for what only tells of the peer"""
    held: int
    """how many tries ended as promised"""
    lost: str = ""
    """work that had to be done again"""
    note: str = ""
    peer: str = ""
    """what Hugging Face's Trainer did, measured"""

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"{self.group!r} is no group of faults; there are {', '.join(GROUPS)}")
        if not 0 <= self.held <= self.tries:
            raise ValueError(f"{self.held} of {self.tries} tries of {self.fault!r} cannot have held")


def merged(findings: Sequence[Finding]) -> list[Finding]:
    """One for each fault, in the order of the groups and of their first mention: tries add up, texts are joined."""
    by_fault: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_fault.setdefault((finding.group, finding.fault), []).append(finding)
    groups = list(GROUPS)
    return [
        Finding(
            fault=fault,
            group=group,
            tries=sum(each.tries for each in same),
            held=sum(each.held for each in same),
            lost=_joined(each.lost for each in same),
            note=_joined(each.note for each in same),
            peer=_joined(each.peer for each in same),
        )
        for (group, fault), same in sorted(by_fault.items(), key=lambda item: groups.index(item[0][0]))
    ]


def _joined(texts: Any) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def as_document(findings: Sequence[Finding], failed: Sequence[str]) -> dict[str, Any]:
    """For the result file: the merged findings by group, and the ids of tests that failed."""
    rows = merged(findings)
    groups = [
        {"title": title, "faults": [asdict(row) for row in rows if row.group == name]}
        for name, title in GROUPS.items()
        if any(row.group == name for row in rows)
    ]
    return {
        "tries": sum(row.tries for row in rows),
        "held": sum(row.held for row in rows),
        "groups": groups,
        "failed_tests": sorted(failed),
    }


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """The table for a terminal."""
    rows = merged(findings)
    lines = []
    for name, title in GROUPS.items():
        of_group = [row for row in rows if row.group == name]
        lines += [title] if of_group else []
        for row in of_group:
            told = [f"  {row.held:>4} of {row.tries:<4} {row.fault}"]
            told += [f"lost: {row.lost}"] if row.lost else []
            told += [f"Trainer: {row.peer}"] if row.peer else []
            lines.append("; ".join(told))
    return lines
