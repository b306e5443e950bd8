"""Several runs that differ in their seed, on the same rows: an interval and a p-value for the recipe, not for one run.

Rows alone would answer "are these very weights better?". A recipe's next seed gives other weights, and its spread
shrinks with the number of seeds, however many rows there are. The mean over seeds and rows is taken as a part from the
rows and a part from the seeds of each side; each has its own variance and Student's t, and the squares of the
half-widths add up (MOVER, Zou and Donner 2008, Stat. Med. 27:1693, eq. 5; that rows and seeds are crossed as cases
and readers are: Obuchowski and Rockette 1995). p is where that interval ends at zero. As rows alone are never less
sure, the interval is widened to theirs where it is narrower, and p is the larger of both.

Resampling rows and seeds (the pigeonhole bootstrap, Owen 2007, Ann. Appl. Stat. 1:386) was tried and not taken: two or
three values resampled know nothing of their spread. Where seeds differ more than rows do it covered 77 % with two seeds
and 85 % with three; with a dozen both agree (tests/unit/evaluation/test_seeds.py, docs/decisions/0010).

Simulated coverage at 95 %, 64 to 500 rows, seeds that differ not at all up to mostly: 94 to 98 % with three, five and
eight seeds; 94 to 99 % with two, at three to thirteen times the width of the rows' own interval, because t with one
degree of freedom is 12.7: two seeds can rarely show anything. One run on a side gives no spread: then the statement
holds for this run. Seeds of both sides are taken as independent; where they share order and rows, that errs on the wide
side.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10, sqrt

import numpy as np

from whet.evaluation import statistics, student
from whet.evaluation.statistics import PairedResult
from whet.types import Interval

Scores = Sequence[Sequence[float | None]]
"""[seeds][rows] of one side: the same rows in the same order for every seed"""
Parts = tuple[tuple[float, float], ...]
"""(variance, degrees of freedom) of each part of the mean difference; they add up"""


def compare_scores(base: Scores, tuned: Scores, *, seed: int, level: float = 0.95) -> PairedResult | None:
    """Two sides under one metric; None where no row has a score of every run. ValueError: unequal numbers of rows."""
    if len(base) == len(tuned) == 1:
        return statistics.paired_result(base[0], tuned[0], seed=seed, level=level)
    base_SR, tuned_SR, num_left_out = scored(base, tuned)
    if base_SR.shape[1] == 0:
        return None
    interval, p_value = _rows_alone(base_SR, tuned_SR, seed, level)
    parts = error_parts(base_SR, tuned_SR)
    half = half_width(parts, level)
    mean = interval.estimate
    return PairedResult(
        num_rows=base_SR.shape[1],
        num_left_out=num_left_out,
        base_mean=float(base_SR.mean()),
        tuned_mean=float(tuned_SR.mean()),
        difference=Interval(
            estimate=mean, low=min(interval.low, mean - half), high=max(interval.high, mean + half), level=level
        ),
        p_value=max(p_value, _p_of_parts(mean, parts)),
    )


def scored(base: Scores, tuned: Scores) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores [seeds, rows] of both sides on the rows that every run has a score for, and how many rows have not."""
    runs = np.array([[np.nan if score is None else score for score in run] for run in (*base, *tuned)], dtype=float)
    has_all = ~np.isnan(runs).any(axis=0)
    kept = runs[:, has_all]
    return kept[: len(base)], kept[len(base) :], int((~has_all).sum())


def row_means(scores: Scores) -> list[float | None]:
    """Each row's mean over the seeds, None where a seed has no score."""
    means: list[float | None] = []
    for row in zip(*scores, strict=True):
        known = [score for score in row if score is not None]
        means.append(sum(known) / len(known) if len(known) == len(row) else None)
    return means


def error_parts(base_SR: np.ndarray, tuned_SR: np.ndarray) -> Parts:
    """The parts of the error of the mean difference: that of the rows, then that of each side with several seeds."""
    num_rows = base_SR.shape[1]
    if num_rows < 2:
        return ((float("inf"), 1.0),)
    rows = tuned_SR.mean(axis=0) - base_SR.mean(axis=0)
    parts = [(float(rows.var(ddof=1)) / num_rows, num_rows - 1.0)]
    parts += [_seed_part(side) for side in (base_SR, tuned_SR) if len(side) > 1]
    return tuple(parts)


def _seed_part(scores_SR: np.ndarray) -> tuple[float, float]:
    """Variance of the mean that the choice of seeds brings, with its degrees of freedom.

    The means of seeds also differ because their rows do; that share is in the part of the rows already and is
    subtracted from three seeds on. Two seeds cannot tell it apart, so nothing is.
    """
    num_seeds, num_rows = scores_SR.shape
    seed_means = scores_SR.mean(axis=1)
    variance = float(seed_means.var(ddof=1)) / num_seeds
    if num_seeds > 2:
        residuals = scores_SR - seed_means[:, None] - scores_SR.mean(axis=0) + scores_SR.mean()
        degrees = (num_seeds - 1) * (num_rows - 1)
        variance -= float(np.sum(residuals**2)) / degrees / (num_seeds * num_rows)
    return max(0.0, variance), num_seeds - 1.0


def half_width(parts: Parts, level: float) -> float:
    """Of the interval around the mean difference at `level`."""
    return sqrt(sum(student.quantile((1 + level) / 2, degrees) ** 2 * variance for variance, degrees in parts))


def _p_of_parts(mean: float, parts: Parts) -> float:
    """1 - the level at which the interval just reaches zero."""
    if mean == 0.0:
        return 1.0
    if not any(variance for variance, _ in parts):
        return student.SMALLEST_P
    # bisected in log10(p)
    low, high = log10(student.SMALLEST_P), 0.0
    for _ in range(28):
        middle = (low + high) / 2
        low, high = (low, middle) if half_width(parts, 1 - 10**middle) < abs(mean) else (middle, high)
    return float(10**high)


def _rows_alone(base_SR: np.ndarray, tuned_SR: np.ndarray, seed: int, level: float) -> tuple[Interval, float]:
    """Interval and p over the rows' mean differences, as if these runs were all there ever will be."""
    rows = tuned_SR.mean(axis=0) - base_SR.mean(axis=0)
    p_value = statistics.sign_flip_p(rows, seed=seed)
    if np.isin(base_SR, (0.0, 1.0)).all() and np.isin(rows, (-1.0, 0.0, 1.0)).all():
        wins, losses = int(np.sum(rows > 0)), int(np.sum(rows < 0))
        return statistics.difference_interval(wins, losses, len(rows), seed=seed, level=level), p_value
    return statistics.mean_interval(rows, seed=seed, level=level), p_value
