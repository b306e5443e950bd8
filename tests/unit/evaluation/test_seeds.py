"""Several seeds: the interval covers the recipe's own difference, which rows alone or resampled seeds do not."""

import numpy as np
import pytest
from scipy import stats

from whet.evaluation import statistics
from whet.evaluation.seeds import compare_scores, error_parts, half_width, row_means, scored

pytestmark = pytest.mark.slow


def study(
    generator: np.random.Generator,
    *,
    num_seeds: int,
    num_rows: int = 100,
    row: float = 1.0,
    seed: float = 0.1,
    both: float = 1.0,
    shift: float = 0.0,
) -> np.ndarray:
    """Scores [seeds, rows] of a recipe whose true mean is `shift`; the other arguments are standard deviations."""
    return (
        shift
        + row * generator.normal(size=(1, num_rows))
        + seed * generator.normal(size=(num_seeds, 1))
        + both * generator.normal(size=(num_seeds, num_rows))
    )


def zeros(num_rows: int) -> np.ndarray:
    return np.zeros((1, num_rows))


def share_covered(num_seeds: int, num_studies: int, **spread: float) -> float:
    """By the part for rows and seeds alone, without the widening to the rows' own bootstrap."""
    generator = np.random.default_rng(num_seeds)
    covered = 0
    for _ in range(num_studies):
        scores_SR = study(generator, num_seeds=num_seeds, **spread)
        parts = error_parts(zeros(scores_SR.shape[1]), scores_SR)
        covered += abs(float(scores_SR.mean())) <= half_width(parts, 0.95)
    return covered / num_studies


SPREADS = [
    {"seed": 0.0, "both": 0.0},
    {"seed": 0.0, "row": 0.3},
    {"seed": 0.03},
    {"seed": 0.1},
    {"seed": 0.3},
    {"seed": 0.05, "both": 0.3},
]


@pytest.mark.slow
@pytest.mark.parametrize("spread", SPREADS, ids=str)
@pytest.mark.parametrize("num_seeds", [3, 5, 8])
def test_from_three_seeds_on_the_truth_is_covered_as_often_as_said(num_seeds, spread):
    # 4,000 studies: a standard error of 0.34 points
    assert 0.94 <= share_covered(num_seeds, 4000, **spread) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("spread", SPREADS, ids=str)
def test_two_seeds_are_covered_at_the_price_of_a_wide_interval(spread):
    assert share_covered(2, 4000, **spread) >= 0.94


def test_a_few_hundred_studies_of_three_seeds_are_covered():
    # 600 studies: a standard error of 0.9 points
    assert share_covered(3, 600, seed=0.3) >= 0.925


def pigeonhole(scores_SR: np.ndarray, generator: np.random.Generator, num_draws: int = 300) -> tuple[float, float]:
    """Owen 2007: seeds and rows drawn with replacement, each on its own."""
    num_seeds, num_rows = scores_SR.shape
    means = []
    for _ in range(num_draws):
        seeds, rows = generator.integers(0, num_seeds, num_seeds), generator.integers(0, num_rows, num_rows)
        means.append(scores_SR[np.ix_(seeds, rows)].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_with_a_dozen_seeds_it_agrees_with_resampling_seeds_and_rows():
    generator = np.random.default_rng(1)
    ratios = []
    for _ in range(30):
        scores_SR = study(generator, num_seeds=12, seed=0.3, both=0.5)
        low, high = pigeonhole(scores_SR, generator)
        ratios.append(2 * half_width(error_parts(zeros(100), scores_SR), 0.95) / (high - low))
    # Student's t with 11 degrees is 12 % above the normal quantile, and resampling 12 seeds takes 4 % off their spread
    assert 1.0 <= np.mean(ratios) <= 1.25


def test_resampling_three_seeds_would_be_too_sure():
    generator = np.random.default_rng(2)
    inside = []
    for _ in range(200):
        low, high = pigeonhole(study(generator, num_seeds=3, seed=0.3), generator, num_draws=150)
        inside.append(low <= 0 <= high)
    assert np.mean(inside) < 0.92


@pytest.mark.slow
@pytest.mark.parametrize(("num_base", "num_tuned", "seed"), [(1, 3, 0.15), (3, 3, 0.15), (2, 2, 0.1)])
def test_without_an_effect_seeds_find_one_no_more_often_than_alpha(num_base, num_tuned, seed):
    generator = np.random.default_rng(3)
    found = {"rows": 0, "both": 0}
    num_studies, num_rows = 300, 80
    for number in range(num_studies):
        rows = generator.normal(size=(1, num_rows))
        base_SR = rows + study(
            generator, num_seeds=num_base, num_rows=num_rows, row=0.3, seed=0.0 if num_base == 1 else seed, both=0.5
        )
        tuned_SR = rows + study(generator, num_seeds=num_tuned, num_rows=num_rows, row=0.3, seed=seed, both=0.5)
        result = compare_scores(base_SR.tolist(), tuned_SR.tolist(), seed=number)
        found["both"] += result.p_value < 0.05
        found["rows"] += statistics.sign_flip_p(tuned_SR.mean(axis=0) - base_SR.mean(axis=0), seed=number) < 0.05
    # 300 studies: a standard error of 1.3 points
    assert found["both"] / num_studies <= 0.05 + 0.025
    assert found["rows"] / num_studies > 0.15, "rows alone take the seeds' luck for an effect"


@pytest.mark.slow
def test_right_and_wrong_over_three_seeds_hold_their_level_and_find_a_planted_gain():
    generator = np.random.default_rng(4)

    def right(num_seeds: int, gain: float, spread: float) -> list[list[float]]:
        chance = difficulty[None] + gain + spread * generator.normal(size=(num_seeds, 1))
        return (generator.random((num_seeds, 200)) < chance).astype(float).tolist()

    found = {0.0: 0, 0.12: 0}
    for gain in found:
        for number in range(600):
            difficulty = generator.beta(0.5, 1.0, 200)
            base, tuned = right(1, 0.0, 0.0), right(3, gain, 0.02)
            result = compare_scores(base, tuned, seed=number)
            found[gain] += result.p_value < 0.05 and result.difference.low > 0
    assert found[0.0] / 600 <= 0.025 + 0.013  # one side of 5 %, two standard errors
    assert found[0.12] / 600 > 0.6


def test_p_is_where_the_interval_ends_at_zero():
    scores_SR = study(np.random.default_rng(5), num_seeds=4, shift=0.45, seed=0.2)
    result = compare_scores(zeros(100).tolist(), scores_SR.tolist(), seed=0)
    assert 0.001 < result.p_value < 0.5
    assert half_width(error_parts(zeros(100), scores_SR), 1 - result.p_value) == pytest.approx(
        result.difference.estimate, rel=1e-6
    )


def test_where_the_seeds_agree_it_is_students_t_over_rows():
    rows = np.random.default_rng(6).normal(0.3, 1.0, size=400)
    scores_SR = np.stack([rows] * 3)
    half = half_width(error_parts(zeros(400), scores_SR), 0.95)
    theirs = stats.ttest_1samp(rows, 0.0).confidence_interval(0.95)
    assert half == pytest.approx((theirs.high - theirs.low) / 2, rel=1e-6)


def test_where_only_seeds_differ_it_is_students_t_over_seeds():
    seed_means = np.array([0.1, 0.4, 0.25, 0.3])
    scores_SR = np.repeat(seed_means[:, None], 50, axis=1)
    half = half_width(error_parts(zeros(50), scores_SR), 0.9)
    theirs = stats.ttest_1samp(seed_means, 0.0).confidence_interval(0.9)
    assert half == pytest.approx((theirs.high - theirs.low) / 2, rel=1e-6)


def test_it_is_never_surer_than_the_rows_alone():
    generator = np.random.default_rng(7)
    for number in range(20):
        scores_SR = study(generator, num_seeds=3, num_rows=40, shift=0.2)
        result = compare_scores(zeros(40).tolist(), scores_SR.tolist(), seed=number)
        alone = statistics.mean_interval(scores_SR.mean(axis=0), seed=number)
        assert result.difference.low <= alone.low and alone.high <= result.difference.high
        assert result.p_value >= statistics.sign_flip_p(scores_SR.mean(axis=0), seed=number)


def test_seeds_that_all_answer_alike_still_have_an_interval_with_a_width():
    result = compare_scores([[0.0] * 30], [[0.0] * 30] * 3, seed=0)
    assert result.difference.low < 0 < result.difference.high
    assert result.p_value == 1.0


def test_one_run_on_each_side_is_the_paired_comparison():
    generator = np.random.default_rng(8)
    base, tuned = generator.normal(size=30).tolist(), generator.normal(size=30).tolist()
    assert compare_scores([base], [tuned], seed=3) == statistics.paired_result(base, tuned, seed=3)


def test_a_row_that_one_seed_has_no_score_for_is_left_out_of_all():
    base, tuned = [[0.0, 0.0, 1.0, 0.0]], [[1.0, None, 1.0, 0.5], [0.5, 1.0, None, 0.5]]
    base_SR, tuned_SR, num_left_out = scored(base, tuned)
    assert (base_SR.shape, tuned_SR.shape, num_left_out) == ((1, 2), (2, 2), 2)
    assert row_means(tuned) == [0.75, None, None, 0.5]
    assert compare_scores(base, tuned, seed=0).tuned_mean == 0.625
    assert compare_scores([[None]], [[1.0], [0.0]], seed=0) is None
