"""Two EvalReports on the same rows -> Comparison: numbers, a verdict, and the verdict in words.

The rule: `better` iff the 95 % interval of the difference lies above zero and exact McNemar p < 0.05; `worse` iff it
lies below zero and p < 0.05; else `not distinguishable`. Both must agree, so the stricter of the two decides.
"""

from __future__ import annotations

from typing import Literal

from whet.errors import RecipeError
from whet.evaluation import statistics
from whet.types import Comparison, EvalReport, Interval

ALPHA = 0.05
Verdict = Literal["better", "worse", "not distinguishable"]


def compare(base: EvalReport, tuned: EvalReport, *, seed: int) -> Comparison:
    """Pair the two reports row by row; RecipeError names the field in which they are not comparable.

    `seed` draws the bootstrap resamples.
    """
    _refuse_unlike(base, tuned)
    pairs = [(b.is_correct, t.is_correct) for b, t in zip(base.judgements, tuned.judgements, strict=True)]
    num_rows = len(pairs)
    wins, losses = pairs.count((False, True)), pairs.count((True, False))
    difference = statistics.difference_interval(wins, losses, num_rows, seed=seed, level=1 - ALPHA)
    p_value = statistics.mcnemar_p(wins, losses)
    return Comparison(
        dataset=base.dataset,
        num_rows=num_rows,
        base_accuracy=statistics.wilson_interval(_num_correct(base), num_rows),
        tuned_accuracy=statistics.wilson_interval(_num_correct(tuned), num_rows),
        difference=difference,
        wins=wins,
        losses=losses,
        p_value=p_value,
        verdict=decide(difference, p_value),
        base_format_rate=_num_formatted(base) / num_rows,
        tuned_format_rate=_num_formatted(tuned) / num_rows,
        base_stop_rate=1 - _num_cut(base) / num_rows,
        tuned_stop_rate=1 - _num_cut(tuned) / num_rows,
        sentences=_sentences(base, tuned, wins, losses, difference, p_value),
    )


def decide(difference: Interval, p_value: float) -> Verdict:
    """The verdict by the rule at the head of this file."""
    if p_value < ALPHA and difference.low > 0:
        return "better"
    if p_value < ALPHA and difference.high < 0:
        return "worse"
    return "not distinguishable"


def _refuse_unlike(base: EvalReport, tuned: EvalReport) -> None:
    for name in ("dataset", "decoding", "rows_fingerprint"):
        ours, theirs = getattr(base, name), getattr(tuned, name)
        if ours != theirs:
            raise _refusal(f"{name} differs: base has {ours!r}, tuned has {theirs!r}")
    if not base.judgements:
        raise _refusal("no rows were judged")
    ids = [judgement.example_id for judgement in base.judgements]
    for label, rows in (
        ("tuned judgements", tuned.judgements),
        ("base generations", base.generations),
        ("tuned generations", tuned.generations),
    ):
        others = [row.example_id for row in rows]
        if others == ids:
            continue
        if len(others) != len(ids):
            raise _refusal(f"example ids differ: base judged {len(ids)} rows, {label} are {len(others)}")
        at = next(i for i, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b)
        raise _refusal(f"example ids differ at row {at + 1}: base judged {ids[at]!r}, {label} have {others[at]!r}")
    for b, t in zip(base.judgements, tuned.judgements, strict=True):
        if b.golds != t.golds:
            raise _refusal(f"golds differ for {b.example_id!r}: base {b.golds!r}, tuned {t.golds!r}")


def _refusal(difference: str) -> RecipeError:
    return RecipeError(
        f"base and tuned cannot be compared: {difference}",
        mend="evaluate both again with one recipe: the same rows, prompt and decoding settings",
    )


def _sentences(
    base: EvalReport, tuned: EvalReport, wins: int, losses: int, difference: Interval, p_value: float
) -> tuple[str, ...]:
    num_rows = len(base.judgements)
    is_bootstrap = statistics.uses_bootstrap(wins, losses, num_rows)
    method = "paired bootstrap" if is_bootstrap else "paired score interval, the sample is small"
    verdict = decide(difference, p_value)
    sentences = [
        f"tuned answered {_num_correct(tuned)} of {num_rows} right, base {_num_correct(base)}: "
        f"{_points(difference.estimate)} points, 95 % interval {_points(difference.low)} to "
        f"{_points(difference.high)} ({method}).",
        f"{_rows(wins)} only tuned got right, {_rows(losses)} only base; "
        f"exact McNemar p = {p_value:.2g}. Verdict: {verdict}.",
    ]
    if verdict == "not distinguishable":
        sentences.append(_what_was_possible(num_rows, min(wins, losses)))
    base_format, tuned_format = _num_formatted(base), _num_formatted(tuned)
    sentences.append(
        f"In the asked-for format: tuned {tuned_format} of {num_rows}, base {base_format} "
        f"({_points((tuned_format - base_format) / num_rows)} points). Correctness is judged whatever the format: "
        f"a gain in format alone is no gain in right answers."
    )
    base_cut, tuned_cut = _num_cut(base), _num_cut(tuned)
    sentences.append(
        f"Ended by themselves: tuned {num_rows - tuned_cut} of {num_rows}, base {num_rows - base_cut}; "
        f"cut off at the length limit: tuned {tuned_cut}, base {base_cut}."
    )
    if base.weights and base.weights == tuned.weights:
        sentences.append("Both reports carry the same weights: a model was compared with itself.")
    return tuple(sentences)


def _what_was_possible(num_rows: int, num_against: int) -> str:
    needed = statistics.smallest_difference(num_rows, num_against, ALPHA)
    against = f"{_rows(num_against)} against" if num_against else "no row against"
    if needed is None:
        return f"{_rows(num_rows)} with {against} cannot show any difference: evaluate on more rows."
    return (
        f"{_rows(num_rows)} with {against} could have shown a difference of {100 * needed:.1f} points or more; "
        f"a smaller one needs more rows."
    )


def _num_correct(report: EvalReport) -> int:
    return sum(judgement.is_correct for judgement in report.judgements)


def _num_formatted(report: EvalReport) -> int:
    return sum(judgement.has_format for judgement in report.judgements)


def _num_cut(report: EvalReport) -> int:
    return sum(generation.stopped == "length" for generation in report.generations)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
