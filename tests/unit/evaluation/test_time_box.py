import pytest

from whet.evaluation.time_box import FIRST_ROWS, TimeBox


def fill(seconds: float | None, *, num_rows: int, portion: int, seconds_per_row: float) -> tuple[list[int], float]:
    """(portions, time taken) of a model that needs `seconds_per_row`."""
    now = [100.0]
    box = TimeBox(None if seconds is None else now[0] + seconds, clock=lambda: now[0])
    portions: list[int] = []
    while num := box.next_rows(num_rows - sum(portions), portion):
        now[0] += num * seconds_per_row
        box.measured(num, num * seconds_per_row)
        portions.append(num)
    return portions, now[0] - 100


def test_without_a_deadline_portions_are_whole():
    assert fill(None, num_rows=100, portion=32, seconds_per_row=1.0)[0] == [32, 32, 32, 4]


def test_portions_grow_to_full_size_while_there_is_time():
    assert fill(1e6, num_rows=150, portion=64, seconds_per_row=1.0)[0] == [8, 16, 32, 64, 30]


@pytest.mark.parametrize("seconds", [1, 7.9, 8, 20, 55, 100, 149])
@pytest.mark.parametrize("portion", [4, 8, 64])
def test_the_deadline_is_kept_but_for_the_first_rows(seconds, portion):
    portions, taken = fill(seconds, num_rows=1000, portion=portion, seconds_per_row=1.0)
    first = min(FIRST_ROWS, portion)
    assert portions[0] == first
    assert taken <= max(seconds, first)
    if portion >= FIRST_ROWS:
        assert taken > seconds - FIRST_ROWS


def test_the_last_rows_of_a_small_set_are_answered():
    assert fill(1e6, num_rows=11, portion=64, seconds_per_row=1.0)[0] == [8, 3]
    assert fill(10.0, num_rows=3, portion=64, seconds_per_row=1.0)[0] == [3]
