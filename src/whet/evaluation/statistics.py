"""Intervals and tests for answers that are right or wrong, alone and paired. numpy only, local seeds.

Coverage of `difference_interval` at 95 %, by enumerating every possible outcome on a grid of win and loss rates
(true difference at most 0.5): with 64, 100 and 128 rows and at least 5 discordant pairs expected, 93.3 to 96.7 %
(64 to 128 rows and at least 10 pairs: 93.6 to 96.7 %). With fewer pairs expected it errs on the wide side (94.8 to
100 %), and from 20 to 63 rows it stays above 93 %. The percentile and BCa bootstraps alone fell to 63 % and 58 % at
20 rows: a sample with no discordant pair, or with wins only, resamples to itself. tests/unit/evaluation/
test_statistics.py repeats a part of the grid.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np

from whet.types import Interval

MIN_BOOTSTRAP_ROWS = 64
MIN_BOOTSTRAP_DISCORDANT = 20


def wilson_interval(num_correct: int, num_rows: int, level: float = 0.95) -> Interval:
    """Interval of an accuracy that stays in [0, 1] and has a width at 0 and at 1.

    Wilson 1927 (JASA 22:209), the roots of |p_hat - p| = z sqrt(p (1 - p) / n):
    (p_hat + z^2/2n  -+  z sqrt(p_hat (1 - p_hat)/n + z^2/4n^2)) / (1 + z^2/n).
    """
    share = num_correct / num_rows
    z = _two_sided_z(level)
    center = share + z * z / (2 * num_rows)
    half = z * sqrt(share * (1 - share) / num_rows + z * z / (4 * num_rows**2))
    scale = 1 + z * z / num_rows
    # at 0 and 1 the bound is exact by algebra, not in floating point
    low = 0.0 if num_correct == 0 else (center - half) / scale
    high = 1.0 if num_correct == num_rows else (center + half) / scale
    return Interval(estimate=share, low=low, high=high, level=level)


def mcnemar_p(wins: int, losses: int) -> float:
    """Two-sided exact McNemar p: were wins and losses equally likely, how rare is a split at least this uneven?

    McNemar 1947 (Psychometrika 12:153) with the binomial distribution in place of chi-squared:
    p = min(1, 2 * sum_{i <= min(wins, losses)} C(m, i) / 2^m, m = wins + losses). Integers until the one division.
    """
    num_discordant = wins + losses
    binomial = tail = 1
    for i in range(min(wins, losses)):
        binomial = binomial * (num_discordant - i) // (i + 1)
        tail += binomial
    return min(1.0, 2 * tail / 2**num_discordant)


def smallest_difference(num_rows: int, num_losses: int = 0, alpha: float = 0.05) -> float | None:
    """Smallest gain in accuracy that these rows could have shown with exact McNemar p < alpha.

    `num_losses` rows are taken as got worse; with none this is the best case (6 rows of num_rows at alpha 0.05).
    None when the rows do not suffice for any gain.
    """
    for wins in range(num_losses + 1, num_rows - num_losses + 1):
        if mcnemar_p(wins, num_losses) < alpha:
            return (wins - num_losses) / num_rows
    return None


def uses_bootstrap(wins: int, losses: int, num_rows: int) -> bool:
    """Whether `difference_interval` trusts the bootstrap here, or takes the score interval."""
    return num_rows >= MIN_BOOTSTRAP_ROWS and wins + losses >= MIN_BOOTSTRAP_DISCORDANT


def difference_interval(wins: int, losses: int, num_rows: int, *, seed: int, level: float = 0.95) -> Interval:
    """Interval of tuned minus base accuracy on the same rows; `wins` and `losses` count the discordant rows.

    BCa bootstrap over rows where there is enough to resample, else Tango's score interval (`uses_bootstrap`).
    """
    if not uses_bootstrap(wins, losses, num_rows):
        return score_interval(wins, losses, num_rows, level)
    differences = np.repeat([1.0, -1.0, 0.0], [wins, losses, num_rows - wins - losses])
    return bootstrap_interval(differences, seed=seed, level=level)


def score_interval(wins: int, losses: int, num_rows: int, level: float = 0.95) -> Interval:
    """Score interval of a paired difference of proportions, sound with few or no discordant pairs.

    Tango 1998 (Stat. Med. 17:891), eq. 6 to 8: all d with |T(d)| <= z, where
    T(d) = (b - c - n d) / sqrt(n (2 q + d (1 - d))), b = wins, c = losses, and q is the likeliest loss rate
    given d: 2n q^2 + ((2n - b + c) d - b - c) q - c d (1 - d) = 0. T falls in d, so each bound is bisected.
    """
    z = _two_sided_z(level)
    estimate = (wins - losses) / num_rows

    def score(d: float) -> float:
        linear = (2 * num_rows - wins + losses) * d - wins - losses
        root = sqrt(max(0.0, linear * linear + 8 * num_rows * losses * d * (1 - d)))
        loss_rate = (root - linear) / (4 * num_rows)
        variance = num_rows * (2 * loss_rate + d * (1 - d))
        distance = wins - losses - num_rows * d
        if variance <= 1e-12:
            return 0.0 if abs(distance) < 1e-9 else float(np.sign(distance)) * float("inf")
        return distance / sqrt(variance)

    def bisect(outside: float, inside: float) -> float:
        for _ in range(60):
            middle = (outside + inside) / 2
            outside, inside = (middle, inside) if abs(score(middle)) > z else (outside, middle)
        return inside

    return Interval(estimate=estimate, low=bisect(-1.0, estimate), high=bisect(1.0, estimate), level=level)


def bootstrap_interval(
    differences: np.ndarray, *, seed: int, level: float = 0.95, num_resamples: int = 9999
) -> Interval:
    """BCa bootstrap interval of the mean of paired `differences` [num_rows].

    Efron 1987 (JASA 82:171), eq. 6.2 to 6.6: the quantiles Phi(z0 + (z0 + z)/(1 - a (z0 + z))) of the resampled
    means; z0 from the share of means below the observed one (ties count half), a from the skewness.
    All rows equal: nothing to resample, the interval is the point itself.
    """
    num_rows = len(differences)
    values, counts = np.unique(np.asarray(differences, dtype=np.float64), return_counts=True)
    mean = float(counts @ values / num_rows)
    centered = values - mean
    spread = float(counts @ centered**2)
    if len(values) == 1 or spread == 0.0:
        return Interval(estimate=mean, low=mean, high=mean, level=level)
    means = _resampled_means(values, counts, num_resamples, np.random.default_rng(seed))

    normal = NormalDist()
    tolerance = 1e-12 * max(1.0, abs(mean))
    below = float(np.mean(means < mean - tolerance) + 0.5 * np.mean(np.abs(means - mean) <= tolerance))
    z0 = normal.inv_cdf(min(max(below, 0.5 / num_resamples), 1 - 0.5 / num_resamples))
    acceleration = float(counts @ centered**3) / (6 * spread**1.5)

    def corrected_quantile(z: float) -> float:
        share = normal.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
        return float(np.quantile(means, share, method="inverted_cdf"))

    z = _two_sided_z(level)
    return Interval(estimate=mean, low=corrected_quantile(-z), high=corrected_quantile(z), level=level)


def _resampled_means(
    values: np.ndarray, counts: np.ndarray, num_resamples: int, generator: np.random.Generator
) -> np.ndarray:
    # drawing n rows with replacement is one multinomial draw of how often each distinct value comes up
    num_rows = int(counts.sum())
    chunk = max(1, 4_000_000 // len(values))
    means = [
        generator.multinomial(num_rows, counts / num_rows, size=min(chunk, num_resamples - start)) @ values / num_rows
        for start in range(0, num_resamples, chunk)
    ]
    return np.concatenate(means)


def _two_sided_z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
