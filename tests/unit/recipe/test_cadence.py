import itertools

import pytest

from whet.recipe.cadence import acts_after, acts_at_all
from whet.recipe.schema import Callback


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"every": 5}, [5, 10, 15, 20]),
        ({"every": 5, "warmup_steps": 10}, [10, 15, 20]),
        ({"every": 5, "warmup_steps": 11}, [15, 20]),
        ({"every": 5, "cooldown_steps": 1}, [5, 10, 15]),
        ({"every": 5, "cooldown_steps": 5}, [5, 10, 15]),
        ({"every": 5, "cooldown_steps": 6}, [5, 10]),
        ({"every": 5, "warmup_steps": 11, "cooldown_steps": 6}, []),
        ({"every": 21}, []),
    ],
)
def test_it_acts_after_multiples_between_warm_up_and_cool_down(settings, expected):
    callback = Callback(name="spectral", **settings)
    assert [step for step in range(1, 21) if acts_after(callback, step, total_steps=20)] == expected


def test_whether_it_acts_at_all_is_whether_there_is_such_a_step():
    for every, warmup, cooldown, total in itertools.product(range(1, 6), range(7), range(7), range(1, 8)):
        callback = Callback(name="spectral", every=every, warmup_steps=warmup, cooldown_steps=cooldown)
        expected = any(acts_after(callback, step, total_steps=total) for step in range(1, total + 1))
        assert acts_at_all(callback, total_steps=total) is expected
