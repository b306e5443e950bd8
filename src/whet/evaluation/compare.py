"""Two sides on the same rows -> Comparison: every metric, categories, largest changes, a verdict by verdict/rule.py.

A side is one report or one per seed. What is not alike is refused (sides.py); the words are sentences.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whet.evaluation import statistics
from whet.evaluation.breakdown import compare_by_category, largest_changes, take
from whet.evaluation.contests import Contest, decide_together
from whet.evaluation.metrics import METRICS, SECONDS, mean
from whet.evaluation.seeds import compare_scores, row_means
from whet.evaluation.sentences import Facts, sentences
from whet.evaluation.sides import Side, refusal, refuse_unlike, seen_in_training, shared_metrics
from whet.types import Comparison, EvalReport, Interval, MetricComparison
from whet.verdict import ALPHA
from whet.verdict.rule import without_seen_rows


def compare(base: EvalReport, tuned: EvalReport, *, seed: int) -> Comparison:
    """Pair the two reports row by row; RecipeError names the field in which they are not comparable.

    `seed` draws the bootstrap resamples.
    """
    return compare_sides(
        Side(name="base", reports=(base,), is_trained=False), Side(name="tuned", reports=(tuned,)), seed=seed
    )


def compare_sides(base: Side, tuned: Side, *, seed: int) -> Comparison:
    """`compare` for sides of one or several runs each; the role is that of tuned's set."""
    refuse_unlike(base, tuned)
    names, only_some = shared_metrics(base, tuned)
    # rows answered together share one measurement: their number says nothing of its spread
    seconds = _means(base, tuned, SECONDS) if SECONDS in names[1:] else None
    names = [name for name in names if name == names[0] or name != SECONDS]
    rows = range(base.num_rows)
    metrics = compare_metrics(base, tuned, names, rows, seed=seed)
    if not metrics or metrics[0].name != names[0]:
        raise refusal(f"no row has a score of the primary metric, {names[0]}")
    primary, seen = metrics[0], seen_in_training(base, tuned)
    rest = _primary_without(base, tuned, names, seen, seed=seed)
    verdict = primary.verdict or "not distinguishable"
    base_scores, tuned_scores = base.scores(primary.name), tuned.scores(primary.name)
    gains, setbacks = largest_changes(
        base.ids, row_means(base_scores), row_means(tuned_scores),
        higher_is_better=primary.higher_is_better is not False, num_rows=base.num_rows,
    )  # fmt: skip
    categories = tuned.reports[0].categories
    comparison = Comparison(
        dataset=tuned.reports[0].dataset,
        num_rows=base.num_rows,
        base_accuracy=_accuracy(base, seed),
        tuned_accuracy=_accuracy(tuned, seed),
        difference=primary.difference,
        wins=len(gains),
        losses=len(setbacks),
        p_value=primary.p_value,
        verdict=without_seen_rows(verdict, rest.verdict if rest else None) if seen else verdict,
        base_format_rate=base.rate(base.num_formatted()),
        tuned_format_rate=tuned.rate(tuned.num_formatted()),
        base_stop_rate=base.rate(base.num_stopped()),
        tuned_stop_rate=tuned.rate(tuned.num_stopped()),
        role=tuned.reports[0].role,
        primary=primary.name,
        metrics=metrics,
        categories=compare_by_category(categories, base_scores, tuned_scores, like=primary, seed=seed)
        if len(set(categories)) > 1
        else (),
        gains=gains[:10],
        setbacks=setbacks[:10],
        seen_in_training=seen,
        verdict_without_seen=rest.verdict if rest else None,
        base_name=base.name,
        tuned_name=tuned.name,
        num_base_seeds=len(base.reports),
        num_tuned_seeds=len(tuned.reports),
    )
    left_out = tuple(only_some + [name for name in names if name not in {metric.name for metric in metrics}])
    return replace(
        comparison, sentences=sentences(comparison, base, tuned, Facts(rest=rest, left_out=left_out, seconds=seconds))
    )


def _means(base: Side, tuned: Side, name: str) -> tuple[float, float] | None:
    """Base's and tuned's mean over rows and seeds; None where no row has a score."""
    means = [mean([score for run in side.scores(name) for score in run]) for side in (base, tuned)]
    return None if means[0] is None or means[1] is None else (means[0], means[1])


def compare_metrics(
    base: Side, tuned: Side, names: Sequence[str], rows: Sequence[int], *, seed: int
) -> tuple[MetricComparison, ...]:
    """Every metric on some of the rows, corrected together."""
    contests = [
        Contest(
            name=name,
            unit=METRICS[name].unit if name in METRICS else "",
            higher_is_better=METRICS[name].higher_is_better if name in METRICS else None,
            base=take(base.scores(name), rows),
            tuned=take(tuned.scores(name), rows),
        )
        for name in names
    ]
    return decide_together(contests, seed=seed)


def _primary_without(
    base: Side, tuned: Side, names: Sequence[str], seen: Sequence[str], *, seed: int
) -> MetricComparison | None:
    """The primary metric on the rows that no compared model may know; None without such rows, or with nothing else."""
    known = set(seen)
    rows = [row for row, id in enumerate(base.ids) if id not in known]
    if not seen or not rows:
        return None
    metrics = compare_metrics(base, tuned, names, rows, seed=seed)
    return metrics[0] if metrics and metrics[0].name == names[0] else None


def _accuracy(side: Side, seed: int) -> Interval:
    """Share of right answers: Wilson's interval for one model, over rows and seeds for several runs."""
    right = side.right()
    if side.is_one:
        return statistics.wilson_interval(int(sum(score or 0 for score in right[0])), side.num_rows, level=1 - ALPHA)
    result = compare_scores([[0.0] * side.num_rows], right, seed=seed, level=1 - ALPHA)
    if result is None:
        raise refusal("no rows were judged")
    share = result.difference
    return replace(share, low=max(0.0, share.low), high=min(1.0, share.high))
