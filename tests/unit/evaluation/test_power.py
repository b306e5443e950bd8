"""The detectable difference is found as often as stated, by enumeration and by whole simulated studies."""

import numpy as np
import pytest
from scipy import stats

from whet.evaluation import statistics
from whet.evaluation.power import (
    detectable,
    detectable_beside,
    detectable_difference,
    detectable_mean_difference,
    rows_needed,
)
from whet.evaluation.seeds import compare_scores
from whet.verdict import decide


def exact_power(num_rows: int, discordance: float, difference: float, alpha: float) -> float:
    """Probability that the exact McNemar test rejects, summed over every number of discordant rows and wins."""
    total = 0.0
    win_share = (discordance + difference) / (2 * discordance)
    for num_discordant, probability in enumerate(stats.binom.pmf(np.arange(num_rows + 1), num_rows, discordance)):
        if probability > 1e-9:
            wins = np.arange(num_discordant + 1)
            tail = stats.binom.cdf(np.minimum(wins, num_discordant - wins), num_discordant, 0.5)
            rejected = np.minimum(1, 2 * tail) < alpha
            total += probability * stats.binom.pmf(wins, num_discordant, win_share)[rejected].sum()
    return total


@pytest.mark.parametrize("num_rows", [64, 128, 333, 1319])
@pytest.mark.parametrize("discordance", [0.02, 0.1, 0.3, 0.6])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.01, 0.9)])
def test_exact_power_at_the_detectable_difference_is_what_was_asked_for(num_rows, discordance, alpha, power):
    difference = detectable_difference(num_rows, discordance, alpha=alpha, power=power)
    if difference is None:
        # then even all discordant rows won would not suffice
        assert exact_power(num_rows, discordance, 0.999 * discordance, alpha) < power + 0.1
        return
    found = exact_power(num_rows, discordance, difference, alpha)
    is_large = num_rows * discordance >= 20
    assert power - 0.005 <= found <= power + (0.055 if is_large else 0.13)


def verdicts(win_rate: float, loss_rate: float, num_rows: int, num_studies: int) -> list[str]:
    """Verdicts of whole studies by the rule of compare.py: interval and p-value."""
    generator = np.random.default_rng(1)
    counts = generator.multinomial(num_rows, [win_rate, loss_rate, 1 - win_rate - loss_rate], size=num_studies)
    known: dict[tuple[int, int], str] = {}
    for wins, losses, _ in counts.tolist():
        if (wins, losses) not in known:
            interval = statistics.difference_interval(wins, losses, num_rows, seed=2)
            known[wins, losses] = decide(interval, statistics.mcnemar_p(wins, losses))
    return [known[wins, losses] for wins, losses, _ in counts.tolist()]


@pytest.mark.slow
@pytest.mark.parametrize(("num_rows", "discordance"), [(128, 0.3), (333, 0.2)])
def test_a_planted_effect_of_that_size_is_found_four_times_in_five(num_rows, discordance):
    difference = detectable_difference(num_rows, discordance)
    found = verdicts((discordance + difference) / 2, (discordance - difference) / 2, num_rows, 4000)
    # 4,000 studies: a standard error of 0.6 points
    assert 0.79 <= found.count("better") / 4000 <= 0.84
    assert found.count("worse") == 0


@pytest.mark.slow
@pytest.mark.parametrize(("num_rows", "discordance"), [(24, 0.5), (128, 0.3), (333, 0.2)])
def test_no_effect_is_found_no_more_often_than_alpha(num_rows, discordance):
    found = verdicts(discordance / 2, discordance / 2, num_rows, 4000)
    assert 1 - found.count("not distinguishable") / 4000 <= 0.05 + 0.007


def test_a_planted_mean_is_found_four_times_in_five():
    generator = np.random.default_rng(5)
    spread = generator.laplace(scale=0.2, size=150)
    planted = detectable_mean_difference(spread)
    rows = generator.laplace(loc=planted, scale=spread.std(ddof=1) / np.sqrt(2), size=(1000, 150))
    found = [statistics.sign_flip_p(row, seed=i, num_draws=599) < 0.05 for i, row in enumerate(rows)]
    # 1,000 studies: a standard error of 1.3 points
    assert 0.76 <= np.mean(found) <= 0.84


def test_the_rows_needed_are_the_fewest_that_suffice():
    for difference, discordance in ((0.05, 0.2), (0.1, 0.3), (0.02, 0.04)):
        num_rows = rows_needed(difference, discordance)
        assert detectable_difference(num_rows, discordance) <= difference
        fewer = detectable_difference(num_rows - 1, discordance)
        assert fewer is None or fewer > difference
    assert rows_needed(0.0, 0.2) is None
    assert rows_needed(0.3, 0.2) is None


def test_five_discordant_rows_can_show_nothing():
    assert detectable_difference(100, 0.05) is None
    assert detectable_difference(100, 0.0) is None
    assert detectable_mean_difference(np.array([1.0])) == float("inf")


@pytest.mark.parametrize("num_rows", [20, 64, 128, 1319])
def test_rows_of_which_none_changed_would_still_have_shown_a_difference(num_rows):
    found = detectable_beside(num_rows, 0)
    # six wins and no loss are the fewest that exact McNemar calls significant
    assert 0.8 <= stats.binom.sf(5, num_rows, found) <= 0.94
    assert detectable_beside(num_rows, 1) == pytest.approx(found)
    assert detectable_beside(num_rows, num_rows // 2) == detectable_difference(num_rows, (num_rows // 2) / num_rows)
    assert detectable_beside(5, 0) is None


def test_the_kind_of_scores_and_sides_decides_how_it_is_reckoned():
    generator = np.random.default_rng(6)
    base, tuned = [generator.normal(size=50).tolist() for _ in range(2)]
    differences = np.array(tuned) - np.array(base)
    assert detectable([base], [tuned]) == detectable_mean_difference(differences)
    right = [[float(i < 10) for i in range(50)]], [[float(i < 30) for i in range(50)]]
    assert detectable(*right) == detectable_beside(50, 20)
    assert detectable([base], [base]) is None
    assert detectable([[None]], [[1.0]]) is None


@pytest.mark.slow
def test_a_planted_gain_is_found_over_five_seeds_about_as_often_as_said():
    generator = np.random.default_rng(7)
    stated, found = [], 0
    num_studies, planted = 300, 0.42
    for number in range(num_studies):
        rows = generator.normal(size=(1, 80))
        base = rows.tolist()
        noise = 0.3 * generator.normal(size=(5, 80)) + 0.15 * generator.normal(size=(5, 1))
        tuned = (rows + planted + generator.normal(size=(1, 80)) + noise).tolist()
        stated.append(detectable(base, tuned))
        found += compare_scores(base, tuned, seed=number).p_value < 0.05
    # the stated size, in the middle of the studies, is near the planted one, and that was found four times in five;
    # 300 studies: a standard error of 2.3 points
    assert np.median(stated) == pytest.approx(planted, rel=0.1)
    assert 0.75 <= found / num_studies <= 0.92
