import pytest

from whet.train.pace import Pace


def run(paces, seconds_of_ranks):
    """One step of all ranks: what each spent before travels now."""
    slots = [pace.slots() for pace in paces]
    for pace, seconds in zip(paces, seconds_of_ranks, strict=True):
        pace.heard([sum(column) for column in zip(*slots, strict=True)])
        pace.finished(
            {"data_seconds": 0.1, "forward_seconds": seconds - 0.1, "backward_seconds": 0.0, "save_seconds": 9}
        )


@pytest.mark.parametrize(("slow", "expected"), [((1.0, 1.0, 1.5), 2), ((1.0, 1.1, 1.15), None), ((2.0, 1.0, 1.0), 0)])
def test_a_rank_that_takes_over_a_fifth_longer_than_the_median_is_named(slow, expected):
    paces = [Pace(rank, 3) for rank in range(3)]
    for _ in range(12):
        run(paces, slow)
    assert [pace.straggler for pace in paces] == [expected] * 3


def test_of_two_ranks_the_slower_one_is_compared_with_the_faster():
    paces = [Pace(rank, 2) for rank in range(2)]
    for _ in range(12):
        run(paces, (1.0, 1.3))
    assert paces[0].straggler == 1
    assert paces[0].sentence(lambda rank: f"node-{rank}") == (
        "rank 1 (host node-1) is slow: its rows and passes took 1.30 times as long as the median rank's; "
        "the others waited 3 s for it"
    )


def test_one_slow_step_and_the_first_ones_make_no_straggler():
    paces = [Pace(rank, 2) for rank in range(2)]
    run(paces, (50.0, 1.0))
    for step in range(30):
        run(paces, (1.0, 9.0 if step == 11 else 1.0))
        assert paces[0].straggler is None
    assert "rank 1 is slow" in paces[0].sentence() or paces[0].sentence() == ""


def test_a_rank_that_recovers_is_no_longer_named():
    paces = [Pace(rank, 2) for rank in range(2)]
    for step in range(60):
        run(paces, (1.0, 2.0 if step < 20 else 1.0))
    assert paces[0].straggler is None


def test_one_process_sends_nothing_and_few_steps_prove_nothing():
    alone = Pace()
    assert alone.slots() == []
    alone.heard([])
    assert alone.straggler is None and alone.sentence() == ""
    paces = [Pace(rank, 2) for rank in range(2)]
    for _ in range(4):
        run(paces, (1.0, 5.0))
    assert paces[0].straggler is None and paces[0].sentence() == ""


def test_ranks_that_are_not_heard_of_do_not_count_as_fast():
    """With tensor parallelism a rank hears of its own data group alone."""
    pace = Pace(0, 4)
    for _ in range(12):
        pace.heard([1.0, 0.0, 1.1, 0.0])
    assert pace.straggler is None
