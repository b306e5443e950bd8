"""Intervals and p-values equal other implementations, and cover the truth as often as they say."""

from functools import cache
from itertools import product
from math import lgamma

import numpy as np
import pytest
from scipy import optimize, stats

from whet.evaluation import statistics


@pytest.mark.parametrize(("num_correct", "num_rows"), [(0, 5), (5, 5), (3, 128), (41, 128), (1, 1), (640, 1319)])
def test_wilson_equals_scipy(num_correct: int, num_rows: int) -> None:
    theirs = stats.binomtest(num_correct, num_rows).proportion_ci(method="wilson")
    ours = statistics.wilson_interval(num_correct, num_rows)
    assert ours.estimate == num_correct / num_rows
    np.testing.assert_allclose((ours.low, ours.high), (theirs.low, theirs.high), atol=1e-12)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 0), (6, 0), (0, 6), (7, 2), (40, 2), (300, 260)])
def test_mcnemar_equals_the_binomial_test(wins: int, losses: int) -> None:
    theirs = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert statistics.mcnemar_p(wins, losses) == pytest.approx(theirs, rel=1e-9)


def test_mcnemar_equals_enumeration_of_every_sign_pattern() -> None:
    for wins, losses in product(range(6), range(6)):
        num_discordant = wins + losses
        splits = [sum(signs) for signs in product((0, 1), repeat=num_discordant)]
        as_uneven = [split for split in splits if abs(2 * split - num_discordant) >= abs(wins - losses)]
        assert statistics.mcnemar_p(wins, losses) == pytest.approx(len(as_uneven) / len(splits))


def test_mcnemar_of_thousands_of_rows_neither_overflows_nor_vanishes() -> None:
    assert 0 < statistics.mcnemar_p(1400, 600) < 1e-60
    assert statistics.mcnemar_p(5000, 5000) == 1.0


@pytest.mark.parametrize("skew", ["binary", "continuous"])
def test_bootstrap_equals_scipy_within_monte_carlo_error(skew: str) -> None:
    generator = np.random.default_rng(7)
    if skew == "binary":
        differences = generator.choice([1.0, -1.0, 0.0], p=[0.3, 0.05, 0.65], size=128)
    else:
        differences = generator.exponential(1.0, size=20)
    theirs = stats.bootstrap(
        (differences,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1), batch=2000
    ).confidence_interval
    ours = statistics.bootstrap_interval(differences, seed=3, num_resamples=20_000)
    # a 2.5 % quantile of 20,000 draws has a standard error of 0.0011 / density, here 0.004; without the
    # acceleration the bounds move by 0.05
    tolerance = 2 / 128 if skew == "binary" else 0.02
    assert abs(ours.low - theirs.low) <= tolerance
    assert abs(ours.high - theirs.high) <= tolerance
    assert ours.estimate == pytest.approx(differences.mean())


def test_bootstrap_quantiles_equal_brute_force_over_all_resamples() -> None:
    rows = np.array([1.0, 1.0, 0.0, -1.0, 0.0, 1.0])
    every_mean = np.sort([rows[list(picks)].mean() for picks in product(range(6), repeat=6)])
    mean = rows.mean()
    z0 = stats.norm.ppf((every_mean < mean - 1e-9).mean() + 0.5 * (np.abs(every_mean - mean) < 1e-9).mean())
    jackknife = np.array([np.delete(rows, i).mean() for i in range(6)])
    pull = jackknife.mean() - jackknife
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    expected = []
    for z in stats.norm.ppf([0.025, 0.975]):
        share = stats.norm.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
        expected.append(every_mean[int(np.ceil(share * len(every_mean))) - 1])
    ours = statistics.bootstrap_interval(rows, seed=0, num_resamples=50_000)
    np.testing.assert_allclose((ours.low, ours.high), expected, atol=1e-12)


def test_bootstrap_repeats_with_its_seed_and_leaves_the_global_generator_alone() -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    rows = np.random.default_rng(0).normal(size=50)
    assert statistics.bootstrap_interval(rows, seed=9) == statistics.bootstrap_interval(rows, seed=9)
    assert statistics.bootstrap_interval(rows, seed=9) != statistics.bootstrap_interval(rows, seed=10)
    assert (np.random.get_state()[1] == before).all()


def test_a_sample_without_discordant_pairs_still_has_an_interval_with_a_width() -> None:
    interval = statistics.difference_interval(0, 0, 40, seed=0)
    assert interval.low < 0 < interval.high
    assert interval.low == pytest.approx(-interval.high)
    assert statistics.bootstrap_interval(np.zeros(40), seed=0).high == 0.0, "the bootstrap alone claims certainty"


@pytest.mark.parametrize(("wins", "losses", "num_rows"), [(9, 2, 30), (0, 4, 25), (1, 1, 10), (12, 0, 12), (3, 0, 64)])
def test_score_interval_equals_numerical_maximum_likelihood(wins: int, losses: int, num_rows: int) -> None:
    def statistic(d: float) -> float:
        ties = num_rows - wins - losses

        def minus_log_likelihood(loss_rate: float) -> float:
            cells = ((wins, loss_rate + d), (losses, loss_rate), (ties, 1 - 2 * loss_rate - d))
            return -sum(count * np.log(max(p, 1e-300)) for count, p in cells if count)

        bounds = (max(0.0, -d), (1 - d) / 2)
        best = optimize.minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12})
        variance = (2 * best.x + d - d * d) / num_rows
        return ((wins - losses) / num_rows - d) ** 2 / variance

    interval = statistics.score_interval(wins, losses, num_rows)
    for bound in (interval.low, interval.high):
        if abs(bound) < 1 - 1e-9:
            assert statistic(bound) == pytest.approx(stats.chi2.ppf(0.95, 1), rel=2e-3)


@cache
def _bounds(wins: int, losses: int, num_rows: int) -> tuple[float, float]:
    interval = statistics.difference_interval(wins, losses, num_rows, seed=11)
    return interval.low, interval.high


def _coverage(win_rate: float, loss_rate: float, num_rows: int) -> float:
    """Probability that the interval holds the truth, summed over every outcome likelier than 2e-6."""
    truth, covered, seen = win_rate - loss_rate, 0.0, 0.0
    for wins in range(num_rows + 1):
        for losses in range(num_rows + 1 - wins):
            ties = num_rows - wins - losses
            log_p = lgamma(num_rows + 1) - lgamma(wins + 1) - lgamma(losses + 1) - lgamma(ties + 1)
            log_p += wins * np.log(win_rate) + ties * np.log1p(-win_rate - loss_rate)
            log_p += losses * np.log(loss_rate) if loss_rate else (0.0 if losses == 0 else -np.inf)
            if log_p < np.log(2e-6):
                continue
            low, high = _bounds(wins, losses, num_rows)
            probability = float(np.exp(log_p))
            seen += probability
            covered += probability * (low - 1e-9 <= truth <= high + 1e-9)
    assert seen > 0.999
    return covered / seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("win_rate", "loss_rate", "num_rows"),
    [(0.05, 0.05, 64), (0.3, 0.02, 64), (0.2, 0.2, 64), (0.3, 0.0, 128), (0.1, 0.02, 128), (0.2, 0.05, 128)],
)
def test_coverage_is_95_percent_give_or_take_1_5_from_64_rows_on(
    win_rate: float, loss_rate: float, num_rows: int
) -> None:
    assert 0.935 <= _coverage(win_rate, loss_rate, num_rows) <= 0.965


@pytest.mark.parametrize(("win_rate", "loss_rate"), [(0.02, 0.02), (0.05, 0.0), (0.1, 0.02), (0.3, 0.02), (0.9, 0.01)])
def test_small_samples_are_covered_conservatively(win_rate: float, loss_rate: float) -> None:
    assert _coverage(win_rate, loss_rate, 20) >= 0.935
    assert _coverage(win_rate, loss_rate, 32) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(
    ("win_rate", "loss_rate", "num_rows"), [(0.2, 0.1, 200), (0.15, 0.15, 200), (0.1, 0.05, 333), (0.05, 0.03, 1319)]
)
def test_simulated_coverage_is_95_percent_give_or_take_1_from_200_rows_on(
    win_rate: float, loss_rate: float, num_rows: int
) -> None:
    rates = [win_rate, loss_rate, 1 - win_rate - loss_rate]
    # 100,000 studies: a standard error of 0.07 points; the cases give 94.2 to 95.4 %
    studies = np.random.default_rng(0).multinomial(num_rows, rates, size=100_000)
    outcomes, counts = np.unique(studies, axis=0, return_counts=True)
    bounds = [_bounds(wins, losses, num_rows) for wins, losses, _ in outcomes.tolist()]
    is_covered = [low - 1e-12 <= win_rate - loss_rate <= high + 1e-12 for low, high in bounds]
    assert 0.94 <= np.average(is_covered, weights=counts) <= 0.96
