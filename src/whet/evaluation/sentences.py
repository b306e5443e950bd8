"""The verdict of one set in words, with the counts it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from whet.evaluation import statistics
from whet.evaluation.sides import Side
from whet.types import Comparison, MetricComparison
from whet.verdict.words import amount, change, rows, short_unit

_FEWEST_ROWS = 8
"""with fewer, not even rows that all change are found four times in five"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the sentences need beyond the comparison."""

    rest: MetricComparison | None
    """the primary metric without the rows seen in training"""
    left_out: tuple[str, ...]
    """metrics that were not compared"""
    seconds: tuple[float, float] | None = None
    """base's and tuned's seconds per example, where they were asked for"""


def sentences(c: Comparison, base: Side, tuned: Side, facts: Facts) -> tuple[str, ...]:
    """What was found, how sure it is, what was not excluded, and what a reader must know beside it."""
    said = [
        _numbers(c, base, tuned),
        _test(c, base, tuned),
        *_limited(c, base, tuned),
        *_seeds(c, base, tuned),
        *_seen(c, facts.rest),
        *_possible(c),
        *_other_metrics(c),
    ]
    if any(metric.name == "answer_accuracy" for metric in c.metrics):
        said.append(_format(c, base, tuned))
    said.append(_stops(base, tuned))
    if facts.seconds is not None:
        said.append(
            f"Seconds per example: {tuned.name} {facts.seconds[1]:.3g}, {base.name} {facts.seconds[0]:.3g}; "
            "rows answered together share one measurement, so there is no interval."
        )
    if facts.left_out:
        said.append(f"Not compared, because not every answer set has it: {', '.join(facts.left_out)}.")
    if len({report.code for report in (*base.reports, *tuned.reports)}) > 1:
        said.append(
            "Answers were made or judged by different versions of the code: evaluate again what was evaluated first."
        )
    if {report.weights for report in base.reports} & {report.weights for report in tuned.reports} - {""}:
        said.append("Both reports carry the same weights: a model was compared with itself.")
    return tuple(said)


def _limited(c: Comparison, base: Side, tuned: Side) -> list[str]:
    of_set = max(report.num_rows_of_set for report in (*base.reports, *tuned.reports))
    if c.num_rows >= of_set:
        return []
    return [f"Time or rows were limited: the first {c.num_rows} of {of_set} rows were answered and are compared."]


def _numbers(c: Comparison, base: Side, tuned: Side) -> str:
    primary = c.metrics[0]
    found = (
        f"{_difference(primary)}, 95 % interval {change(c.difference.low, primary.unit)} to "
        f"{change(c.difference.high, primary.unit)} ({_interval_method(c, base, tuned)})."
    )
    if primary.name == "answer_accuracy" and base.is_one and tuned.is_one and not primary.num_left_out:
        right = [round(mean * primary.num_rows) for mean in (primary.tuned_mean, primary.base_mean)]
        return f"{tuned.name} answered {right[0]} of {primary.num_rows} right, {base.name} {right[1]}: {found}"
    left_out = f" ({rows(primary.num_left_out)} have no score)" if primary.num_left_out else ""
    return (
        f"{primary.name} on {rows(primary.num_rows)}{left_out}: {tuned.name} "
        f"{amount(primary.tuned_mean, primary.unit)}, {base.name} {amount(primary.base_mean, primary.unit)}: {found}"
    )


def _test(c: Comparison, base: Side, tuned: Side) -> str:
    primary = c.metrics[0]
    p_value = f"p = {c.p_value:.2g}"
    num_adjusted = sum(metric.adjusted_p is not None for metric in c.metrics)
    if num_adjusted > 1 and primary.adjusted_p is not None:
        p_value += f", {primary.adjusted_p:.2g} adjusted for {num_adjusted} metrics (Holm)"
    is_binary = _is_binary(primary, base, tuned)
    if is_binary and primary.name == "answer_accuracy":
        return (
            f"{rows(c.wins)} only {tuned.name} got right, {rows(c.losses)} only {base.name}; "
            f"exact McNemar {p_value}. Verdict: {c.verdict}."
        )
    test = "exact McNemar" if is_binary else "sign-flip test"
    if not (base.is_one and tuned.is_one):
        test = "test over rows and seeds"
    gained = "gained" if primary.higher_is_better is not False else "gained (went down)"
    text = f"{rows(c.wins)} {gained}, {c.losses:,} lost, {c.num_rows - c.wins - c.losses:,} stayed; {test} {p_value}."
    if primary.verdict is None:
        return f"{text} Of {primary.name} neither direction is a gain: no verdict can rest on it."
    return f"{text} Verdict: {c.verdict}."


def _seeds(c: Comparison, base: Side, tuned: Side) -> list[str]:
    primary, said = c.metrics[0], []
    for side, means in ((tuned, primary.tuned_seed_means), (base, primary.base_seed_means)):
        if means:
            each = ", ".join(amount(mean, primary.unit) for mean in means)
            said.append(f"{side.name} is the mean of {len(means)} seeds, each by itself {each}.")
    trained = [side for side in (base, tuned) if side.is_trained]
    if any(len(side.reports) == 2 for side in trained):
        said.append("Two seeds hardly know their own spread: the interval is wide for it, and a third narrows it most.")
    single = [side.name for side in trained if side.is_one]
    if single and (base.is_trained or not tuned.is_one):
        said.append(
            f"{' and '.join(single)} {'is one run' if len(single) == 1 else 'are one run each'}: another seed may give "
            f"another difference, which the interval does not hold; train more seeds to compare recipes."
        )
    return said


def _seen(c: Comparison, rest: MetricComparison | None) -> list[str]:
    if not c.seen_in_training:
        return []
    seen = f"{len(c.seen_in_training)} of {rows(c.num_rows)} may be known from the training rows"
    if rest is None:
        return [f"{seen}, none is left without them: they cannot show that tuning helped. Verdict: {c.verdict}."]
    without = (
        f"{seen}. The other {rest.num_rows} say {_difference(rest)}, p = {_decisive_p(rest):.2g}: "
        f"{rest.verdict or 'no verdict'}"
    )
    if c.metrics[0].verdict == "better" and c.verdict != "better":
        return [f"{without}. So the gain may be recall of training rows. Verdict: {c.verdict}."]
    return [f"{without}; the gain holds without them." if c.verdict == "better" else f"{without}."]


def _possible(c: Comparison) -> list[str]:
    """What was not excluded: the smallest difference that would have been found."""
    primary = c.metrics[0]
    if c.role == "guard":
        return [_guard(c, primary)]
    if c.verdict != "not distinguishable" or primary.verdict is None:
        return []
    if primary.detectable is None:
        return [f"{_nothing_shown(primary)}: evaluate on more rows."]
    return [
        f"{rows(primary.num_rows)} like these find a difference of {_size(primary)} or more in four studies of five; "
        f"a smaller one needs more rows."
    ]


def _guard(c: Comparison, primary: MetricComparison) -> str:
    if "worse" in (c.verdict, c.verdict_without_seen):
        return f"Guard: lost {_difference(primary).lstrip('+-')} of {primary.name}."
    if primary.detectable is None:
        return f"Guard: nothing lost, but {_nothing_shown(primary)}."
    return (
        f"Guard: nothing lost that {rows(primary.num_rows)} could show "
        f"(a loss of {_size(primary)} or more would have been, four times in five)."
    )


def _nothing_shown(primary: MetricComparison) -> str:
    if primary.num_rows < _FEWEST_ROWS:
        return f"{rows(primary.num_rows)} cannot show any difference"
    return f"{rows(primary.num_rows)} without any spread do not tell what they could have shown"


def _other_metrics(c: Comparison) -> list[str]:
    said = []
    for verdict in ("better", "worse"):
        found = [f"{metric.name} ({_difference(metric)})" for metric in c.metrics[1:] if metric.verdict == verdict]
        if found:
            said.append(f"Also {verdict}, adjusted for all metrics: {', '.join(found)}.")
    return said


def _format(c: Comparison, base: Side, tuned: Side) -> str:
    points = change(c.tuned_format_rate - c.base_format_rate, "share")
    return (
        f"In the asked-for format: {tuned.name} {_count(tuned.num_formatted())} of {c.num_rows}, {base.name} "
        f"{_count(base.num_formatted())} ({points} points). Correctness is judged whatever the format: "
        f"a gain in format alone is no gain in right answers."
    )


def _stops(base: Side, tuned: Side) -> str:
    num_rows = tuned.num_rows
    cut = [[num_rows - count for count in side.num_stopped()] for side in (tuned, base)]
    return (
        f"Ended by themselves: {tuned.name} {_count(tuned.num_stopped())} of {num_rows}, {base.name} "
        f"{_count(base.num_stopped())}; cut off at the length limit: {tuned.name} {_count(cut[0])}, "
        f"{base.name} {_count(cut[1])}."
    )


def _count(counts: list[int]) -> str:
    mean = sum(counts) / len(counts)
    return f"{mean:.0f}" if len(counts) == 1 else f"{mean:.1f}"


def _difference(metric: MetricComparison) -> str:
    return f"{change(metric.difference.estimate, metric.unit)} {short_unit(metric.unit)}".rstrip()


def _size(metric: MetricComparison) -> str:
    return f"{change(metric.detectable or 0.0, metric.unit).lstrip('+')} {short_unit(metric.unit)}".rstrip()


def _decisive_p(metric: MetricComparison) -> float:
    return metric.p_value if metric.adjusted_p is None else metric.adjusted_p


def _is_binary(primary: MetricComparison, base: Side, tuned: Side) -> bool:
    if not (base.is_one and tuned.is_one):
        return False
    scores = (*base.scores(primary.name)[0], *tuned.scores(primary.name)[0])
    return all(score in (None, 0.0, 1.0) for score in scores)


def _interval_method(c: Comparison, base: Side, tuned: Side) -> str:
    if not (base.is_one and tuned.is_one):
        return "over rows and seeds"
    num_changed, num_rows = c.wins + c.losses, c.metrics[0].num_rows
    if statistics.uses_bootstrap(c.wins, c.losses, num_rows):
        return "paired bootstrap"
    is_binary = _is_binary(c.metrics[0], base, tuned)
    small = "paired score interval" if is_binary else "Student's t and studentised bootstrap"
    return f"{small}, {'the sample is small' if num_rows < 64 else f'only {num_changed} rows changed'}"
