import math
import random
import statistics

import pytest

from whet.train.spikes import Window, highest_usual


def test_the_highest_usual_value_is_the_median_and_so_many_spreads():
    # deviations from the median 5: 4 3 2 1 0 1 2 3 4, whose median is 2
    assert highest_usual(range(1, 10), spike=3.0) == pytest.approx(5 + 3 * 1.4826 * 2)


def test_the_spread_estimates_the_standard_deviation_of_normal_values():
    generator = random.Random(3)
    values = [generator.gauss(10.0, 2.0) for _ in range(20_000)]
    assert (highest_usual(values, spike=1.0) - statistics.median(values)) / 2.0 == pytest.approx(1.0, abs=0.03)


def test_spikes_in_the_window_do_not_hide_the_next_one():
    usual = [1.0 + 0.01 * (n % 7) for n in range(40)]
    with_spikes = [*usual, *[1e6] * 10]
    assert highest_usual(with_spikes, spike=8.0) < 1.5
    assert statistics.mean(with_spikes) + 8 * statistics.pstdev(with_spikes) > 1e6  # what mean and deviation would say


def test_rounding_makes_no_spike_of_equal_values():
    window = filled([2.0] * 10, [1.0] * 10)
    assert window.spike(2.0 + 1e-6, 1.0 + 1e-6) is None
    assert window.spike(2.2, 1.0) is not None


def test_only_what_is_too_large_is_a_spike():
    window = filled([2.0 + 0.1 * (n % 3) for n in range(10)], [1.0] * 10)
    assert window.spike(1e-9, 0.0) is None


def test_nothing_is_a_spike_before_half_the_window_is_there():
    window = Window(size=10, spike=2.0)
    for _ in range(4):
        window.add(1.0, 1.0)
    assert window.spike(1e9, 1e9) is None
    window.add(1.0, 1.0)
    assert "gradient norm 1e+09 is above" in window.spike(1.0, 1e9)
    assert "loss 1e+09 is above" in window.spike(1e9, 1.0)


def test_the_window_forgets_what_is_older_than_its_size():
    window = filled([100.0] * 10 + [1.0] * 10, [1.0] * 20)
    assert window.spike(50.0, 1.0) is not None


def test_a_state_goes_on_where_it_was_to_the_last_bit():
    window = filled([math.pi * n for n in range(1, 8)], [1 / n for n in range(1, 8)])
    other = Window(size=10, spike=4.0)
    other.load_state(window.state())
    assert other.state() == window.state()
    assert other.spike(30.0, 5.0) == window.spike(30.0, 5.0)
    other.load_state({})
    assert other.spike(1e9, 1e9) is None


def filled(losses, norms):
    window = Window(size=10, spike=4.0)
    for loss, norm in zip(losses, norms, strict=True):
        window.add(loss, norm)
    return window
