"""How large a difference must be for a number of paired rows to show it four times in five: what a study can find.

Before a study it tells how many rows are needed; beside `not distinguishable` it tells what was not excluded.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np

from whet.evaluation import student
from whet.evaluation.seeds import Scores, error_parts, scored


def detectable_difference(
    num_rows: int, discordance: float, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest difference in accuracy that exact McNemar finds with probability `power`; None if these rows find none.

    `discordance` is the share of rows on which exactly one model is right. Normal approximation of Connor 1987
    (Biometrics 43:207, eq. 3) with a continuity correction for the exact test: the d that solves
    n d - 1 = z_alpha sqrt(n psi) + z_power sqrt(n (psi - d^2)), n rows, psi discordance, z_alpha two-sided.
    By enumeration, 50 to 1,319 rows: exact power at this difference is 80 to 85 % where 20 or more discordant rows are
    expected, and with fewer up to 92 %, so a little less than what is said would do.
    """
    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
    # squared and ordered by powers of d: (n^2 + n z_power^2) d^2 - 2 n k d + (k^2 - n psi z_power^2) = 0
    k = 1 + z_alpha * sqrt(num_rows * discordance)
    square = num_rows**2 + num_rows * z_power**2
    inside = (num_rows * k) ** 2 - square * (k * k - num_rows * discordance * z_power**2)
    if inside < 0:
        return None
    difference = (num_rows * k + sqrt(inside)) / square
    return difference if difference <= discordance else None


def detectable_mean_difference(differences: np.ndarray, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest mean of paired real-valued `differences` [num_rows] that as many rows with this spread find.

    Normal approximation: (z_alpha + z_power) times the standard error of the mean, z_alpha two-sided.
    """
    normal = NormalDist()
    values = np.asarray(differences, dtype=np.float64)
    error = float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else float("inf")
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * error


def detectable(base: Scores, tuned: Scores, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest difference under one metric that a study like this one finds with probability `power`, in its unit.

    "Like this one": as many rows and seeds, and as much spread as was seen. None where no difference would be found, or
    where there is no spread to go by. With several seeds the quantiles are Student's (evaluation/seeds.py).
    """
    base_SR, tuned_SR, _ = scored(base, tuned)
    num_rows = base_SR.shape[1]
    if num_rows == 0:
        return None
    if len(base) == len(tuned) == 1:
        differences = tuned_SR[0] - base_SR[0]
        if np.isin(base_SR, (0.0, 1.0)).all() and np.isin(tuned_SR, (0.0, 1.0)).all():
            return detectable_beside(num_rows, int(np.count_nonzero(differences)), alpha=alpha, power=power)
        smallest = detectable_mean_difference(differences, alpha=alpha, power=power)
    else:
        smallest = sqrt(
            sum(
                (student.quantile(1 - alpha / 2, degrees) + student.quantile(power, degrees)) ** 2 * variance
                for variance, degrees in error_parts(base_SR, tuned_SR)
            )
        )
    return smallest if 0 < smallest < float("inf") else None


def detectable_beside(num_rows: int, num_discordant: int, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """`detectable_difference` at the share of discordant rows that was seen, or at the least share that finds any.

    A true difference brings discordant rows of its own: where none was seen, one of 8 rows in 100 would have been found
    all the same. None where even rows that all differ would not suffice.
    """
    seen = detectable_difference(num_rows, num_discordant / num_rows, alpha=alpha, power=power)
    if seen is not None:
        return seen
    too_small, enough = num_discordant / num_rows, 1.0
    if detectable_difference(num_rows, enough, alpha=alpha, power=power) is None:
        return None
    for _ in range(40):
        middle = (too_small + enough) / 2
        found = detectable_difference(num_rows, middle, alpha=alpha, power=power)
        too_small, enough = (middle, enough) if found is None else (too_small, middle)
    return enough


def rows_needed(difference: float, discordance: float, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Fewest rows with a `detectable_difference` of at most `difference`; None if 0 or above the discordance."""
    if not 0 < difference <= discordance:
        return None

    def suffices(num_rows: int) -> bool:
        found = detectable_difference(num_rows, discordance, alpha=alpha, power=power)
        return found is not None and found <= difference

    too_few, enough = 0, 1
    while not suffices(enough):
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if suffices(middle) else (middle, enough)
    return enough
