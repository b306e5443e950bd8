"""Real-valued scores of two models on the same rows: intervals cover, tests hold their level, several metrics too."""

from itertools import chain, combinations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from whet.evaluation import statistics

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (6, 0), (7, 2), (40, 2), (300, 260)])
def test_mcnemar_equals_statsmodels(wins, losses):
    theirs = mcnemar([[100, losses], [wins, 50]], exact=True).pvalue if wins + losses else 1.0
    assert statistics.mcnemar_p(wins, losses) == pytest.approx(theirs, rel=1e-9)


def draw(kind: str, generator: np.random.Generator, num_rows: int) -> tuple[np.ndarray, float]:
    """Differences of scores as metrics give them, and their true mean."""
    if kind == "f1":  # near 0 or near 1 under both models
        return generator.beta(0.5, 0.5, num_rows) - generator.beta(0.5, 0.7, num_rows), 0.5 - 0.5 / 1.2
    if kind == "half unchanged":
        changed = generator.random(num_rows) < 0.5
        return changed * generator.normal(0.1, 0.3, num_rows), 0.05
    assert kind == "skewed gains"  # two rows of five gain, most of them little
    return (generator.random(num_rows) < 0.4) * generator.beta(1, 4, num_rows), 0.4 * 0.2


def coverage(kind: str, num_rows: int, num_studies: int) -> float:
    generator = np.random.default_rng(0)
    covered = 0
    for study in range(num_studies):
        differences, truth = draw(kind, generator, num_rows)
        interval = statistics.mean_interval(differences, seed=study)
        covered += interval.low <= truth <= interval.high
    return covered / num_studies


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f1", "half unchanged", "skewed gains"])
def test_the_interval_of_a_mean_covers_95_percent_give_or_take_1(kind, monkeypatch):
    quick = statistics.bootstrap_interval
    # 999 resamples instead of 9,999, so that 4,000 studies take seconds; the interval is noisier, not wider
    monkeypatch.setattr(
        statistics, "bootstrap_interval", lambda values, *, seed, level: quick(values, seed=seed, num_resamples=999)
    )
    # the share of 4,000 studies has a standard error of 0.34 points
    assert 0.94 <= coverage(kind, 200, 4000) <= 0.96


@pytest.mark.parametrize("kind", ["f1", "half unchanged", "skewed gains"])
def test_few_rows_are_covered_nearly_as_often_as_said(kind):
    # 93.6 to 97.9 % in 1,000 studies; of 300 the share has a standard error of 1.3 points
    assert coverage(kind, 24, 300) >= 0.91


@pytest.mark.slow
def test_the_studentised_interval_equals_its_definition():
    values = np.random.default_rng(2).exponential(1.0, size=20)
    generator = np.random.default_rng(5)
    ratios = []
    for _ in range(4000):
        sample = generator.choice(values, size=20)
        ratios.append((sample.mean() - values.mean()) / stats.sem(sample))
    interval = statistics.mean_interval(values, seed=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    expected_high = values.mean() - low * stats.sem(values)
    student_low = values.mean() - stats.t.ppf(0.975, 19) * stats.sem(values)
    # for a right-skewed sample the upper bound is the bootstrap's, the lower one Student's
    assert interval.high == pytest.approx(expected_high, rel=0.05)
    assert interval.low == pytest.approx(student_low, rel=1e-3)
    assert high < -low


def test_an_interval_repeats_with_its_seed_and_a_constant_difference_is_a_point():
    rows = np.random.default_rng(0).normal(size=30)
    assert statistics.mean_interval(rows, seed=1) == statistics.mean_interval(rows, seed=1)
    assert statistics.mean_interval(rows, seed=1) != statistics.mean_interval(rows, seed=2)
    constant = statistics.mean_interval(np.full(30, 0.5), seed=1)
    assert (constant.low, constant.high) == (0.5, 0.5)
    assert statistics.mean_interval(np.array([0.5]), seed=1).low == 0.5


def test_sign_flips_equal_scipy_and_mcnemar():
    generator = np.random.default_rng(3)
    few = generator.normal(0.4, 1.0, size=12)
    theirs = stats.permutation_test((few,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert statistics.sign_flip_p(few, seed=0) == pytest.approx(theirs, rel=1e-9)
    many = generator.normal(0.2, 1.0, size=80)
    rng = np.random.default_rng(1)
    theirs = stats.permutation_test((many,), np.sum, permutation_type="samples", n_resamples=20_000, rng=rng).pvalue
    # two shares of 10,000 and 20,000 draws around 0.1: a standard error of 0.004
    assert statistics.sign_flip_p(many, seed=0) == pytest.approx(theirs, abs=0.012)
    for wins, losses in ((0, 0), (1, 0), (6, 0), (8, 2)):
        differences = np.repeat([1.0, -1.0, 0.0], [wins, losses, 20])
        assert statistics.sign_flip_p(differences, seed=0) == pytest.approx(statistics.mcnemar_p(wins, losses))


@pytest.mark.parametrize("num_rows", [9, 40])
def test_without_an_effect_sign_flips_find_one_no_more_often_than_alpha(num_rows):
    generator = np.random.default_rng(4)
    num_studies = 2000
    rows = generator.laplace(size=(num_studies, num_rows))
    found = sum(statistics.sign_flip_p(row, seed=i, num_draws=599) < 0.05 for i, row in enumerate(rows))
    # at most 5 %, and the share of 2,000 studies has a standard error of 0.5 points
    assert 0.035 <= found / num_studies <= 0.06


def test_sign_flips_never_say_zero():
    assert statistics.sign_flip_p(np.ones(200), seed=0) == 1 / 10_000


@pytest.mark.slow
@pytest.mark.parametrize("num_metrics", [1, 2, 5, 9])
def test_holm_equals_statsmodels_and_the_closed_test_by_brute_force(num_metrics):
    generator = np.random.default_rng(num_metrics)
    for _ in range(20):
        p_values = [float(p) for p in generator.beta(0.4, 2.0, size=num_metrics)]
        adjusted = statistics.holm(p_values)
        np.testing.assert_allclose(adjusted, multipletests(p_values, method="holm")[1], rtol=1e-12)
        # closed testing: a metric is as significant as the least significant Bonferroni test of a set that holds it
        every_set = list(chain(*(combinations(range(num_metrics), size) for size in range(1, num_metrics + 1))))
        bonferroni = {picked: min(1.0, len(picked) * min(p_values[i] for i in picked)) for picked in every_set}
        by_hand = [max(p for picked, p in bonferroni.items() if i in picked) for i in range(num_metrics)]
        np.testing.assert_allclose(adjusted, by_hand, rtol=1e-12)


def test_holm_of_nothing_and_of_ties():
    assert statistics.holm([]) == []
    assert statistics.holm([0.02, 0.02, 1.0]) == [0.06, 0.06, 1.0]


def test_with_six_metrics_and_no_effect_holm_finds_any_no_more_often_than_alpha():
    generator = np.random.default_rng(6)
    # metrics of one set of answers: correlated, half of the spread is shared
    shared = generator.normal(size=(4000, 1))
    z = (shared + generator.normal(size=(4000, 6))) / np.sqrt(2)
    p_values = 2 * stats.norm.sf(np.abs(z))
    uncorrected = np.mean(p_values.min(axis=1) < 0.05)
    corrected = np.mean([min(statistics.holm(list(row))) < 0.05 for row in p_values])
    assert corrected <= 0.05 + 0.007  # two standard errors
    assert uncorrected > 0.15


def test_paired_scores_choose_the_test_by_their_values():
    base, tuned = [0.0, 1.0, 0.0, 0.0] * 10, [1.0, 1.0, 0.0, 0.0] * 10
    found = statistics.paired_result(base, tuned, seed=1)
    assert found.p_value == statistics.mcnemar_p(10, 0)
    assert found.difference == statistics.difference_interval(10, 0, 40, seed=1)
    assert (found.base_mean, found.tuned_mean, found.num_rows, found.num_left_out) == (0.25, 0.5, 40, 0)
    halves = [0.5 * score for score in tuned]
    found = statistics.paired_result(base, halves, seed=1)
    differences = np.array(halves) - np.array(base)
    assert found.p_value == statistics.sign_flip_p(differences, seed=1)
    assert found.difference == statistics.mean_interval(differences, seed=1)


def test_rows_without_both_scores_are_left_out_of_all_figures_and_counted():
    found = statistics.paired_result([0.5, None, 0.25, 1.0], [0.75, 1.0, None, 0.0], seed=0)
    assert (found.num_rows, found.num_left_out) == (2, 2)
    assert (found.base_mean, found.tuned_mean) == (0.75, 0.375)
    assert found.difference.estimate == pytest.approx(-0.375)
    assert statistics.paired_result([None], [1.0], seed=0) is None
    with pytest.raises(ValueError, match="zip"):
        statistics.paired_result([1.0], [1.0, 0.0], seed=0)
