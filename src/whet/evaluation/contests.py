"""Several questions to the same two sides (metrics, categories): each compared, all corrected together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.evaluation import power, statistics
from whet.evaluation.seeds import Scores, compare_scores
from whet.types import MetricComparison
from whet.verdict import ALPHA, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Both sides under one metric, on some rows."""

    name: str
    unit: str
    higher_is_better: bool | None
    base: Scores
    tuned: Scores


def decide_together(contests: Sequence[Contest], *, seed: int) -> tuple[MetricComparison, ...]:
    """Each contest by itself, in their order; those that no row has a score for are absent.

    p-values are adjusted over all that have a direction (Holm). The detectable difference is at the level that the
    least significant of them must reach. `seed` draws the resamples.
    """
    results = [
        (contest, result)
        for contest in contests
        if (result := compare_scores(contest.base, contest.tuned, seed=seed, level=1 - ALPHA)) is not None
    ]
    directed = [contest.name for contest, _ in results if contest.higher_is_better is not None]
    p_values = [result.p_value for contest, result in results if contest.higher_is_better is not None]
    adjusted = dict(zip(directed, statistics.holm(p_values), strict=True))
    return tuple(
        MetricComparison(
            name=contest.name,
            unit=contest.unit,
            higher_is_better=contest.higher_is_better,
            num_rows=result.num_rows,
            num_left_out=result.num_left_out,
            base_mean=result.base_mean,
            tuned_mean=result.tuned_mean,
            difference=result.difference,
            p_value=result.p_value,
            adjusted_p=adjusted.get(contest.name),
            detectable=power.detectable(contest.base, contest.tuned, alpha=ALPHA / max(1, len(directed))),
            verdict=None
            if contest.higher_is_better is None
            else decide(result.difference, adjusted[contest.name], higher_is_better=contest.higher_is_better),
            base_seed_means=_means(contest.base),
            tuned_seed_means=_means(contest.tuned),
        )
        for contest, result in results
    )


def _means(scores: Scores) -> tuple[float, ...]:
    """Each seed's own mean, where there are several."""
    if len(scores) == 1:
        return ()
    known = [[score for score in run if score is not None] for run in scores]
    return tuple(sum(run) / max(1, len(run)) for run in known)
