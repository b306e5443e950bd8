"""The rule: when a set says better or worse, and what all sets together say.

A metric is better iff the 95 % interval of its difference lies on the good side of zero and its p-value, adjusted for
all metrics of the set (Holm), is below 0.05; worse iff both say so on the bad side; else not distinguishable. The
verdict of a set is that of its primary metric, and `better` must survive without the rows seen in training.
All main sets must be better for the run to be better, so their number needs no further correction (intersection-union
test, Berger 1982); one that is worse makes it worse. A guard never makes a run better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.types import Comparison, Interval, Verdict

ALPHA = 0.05


def decide(difference: Interval, adjusted_p: float, *, higher_is_better: bool = True) -> Verdict:
    """What one metric says; interval and p-value must agree, so the stricter of the two decides."""
    is_above, is_below = difference.low > 0, difference.high < 0
    if adjusted_p >= ALPHA or not (is_above or is_below):
        return "not distinguishable"
    return "better" if is_above == higher_is_better else "worse"


def without_seen_rows(all_rows: Verdict, without_seen: Verdict | None) -> Verdict:
    """The verdict of a set of which rows were seen in training; `without_seen` None: no row is left without them."""
    return "not distinguishable" if all_rows == "better" and without_seen != "better" else all_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """What all sets of a run say together."""

    verdict: Verdict
    passes_gate: bool
    """every main set is better and no guard set is worse"""
    reasons: tuple[str, ...]
    """`set: verdict` of each set that keeps the gate shut"""
    sentence: str


def overall(comparisons: Sequence[Comparison]) -> Overall:
    """The verdict over all sets; without a main set there is none to be better on."""
    main = [c for c in comparisons if c.role == "main"]
    lost = [c for c in comparisons if is_lost(c)]
    verdict = _combined([c.verdict for c in main])
    reasons = [f"{c.dataset}: {c.verdict}" for c in main if c.verdict != "better"]
    reasons += [f"{c.dataset}: lost (guard)" for c in lost]
    if not main:
        reasons.insert(0, "no main set was compared")
    return Overall(
        verdict=verdict,
        passes_gate=not reasons,
        reasons=tuple(reasons),
        sentence=_sentence(verdict, main, lost, [c for c in comparisons if c.role == "guard"]),
    )


def is_lost(comparison: Comparison) -> bool:
    """Whether a guard set got worse, with or without the rows that training may have shown."""
    return comparison.role == "guard" and "worse" in (comparison.verdict, comparison.verdict_without_seen)


def _combined(verdicts: Sequence[Verdict]) -> Verdict:
    if "worse" in verdicts:
        return "worse"
    return "better" if verdicts and set(verdicts) == {"better"} else "not distinguishable"


def _sentence(
    verdict: Verdict, main: Sequence[Comparison], lost: Sequence[Comparison], guards: Sequence[Comparison]
) -> str:
    if not main:
        said = "No main set was compared, so nothing says whether tuning helped"
    elif len(main) == 1:
        said = f"{verdict.capitalize()} on {main[0].dataset}"
    else:
        each = ", ".join(f"{c.dataset} {c.verdict}" for c in main)
        said = f"{verdict.capitalize()} over {len(main)} main sets ({each})"
    if lost:
        return f"{said}, but worse on the guard {_names(lost)}."
    return f"{said}; nothing shown to be lost on the guard {_names(guards)}." if guards else f"{said}."


def _names(comparisons: Sequence[Comparison]) -> str:
    noun = "set" if len(comparisons) == 1 else "sets"
    return f"{noun} {', '.join(c.dataset for c in comparisons)}"
