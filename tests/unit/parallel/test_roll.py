"""Who is blamed: pure, from what ranks last said of themselves."""

import pytest

from whet.parallel.roll import Entry, Note, blame, judge

ALL_REDUCE = "gradient all-reduce of step 12"


def entry(
    rank: int, *, entered: int = 12, inside: bool = False, doing: str = "the update of step 12", **others
) -> Entry:
    seconds = others.pop("seconds", 0.0)
    note = Note(
        host=f"node-{rank // 2}", process=4000 + rank, doing=doing, collective=ALL_REDUCE, num_entered=entered,
        is_inside=inside, is_patient=others.pop("patient", False), seconds_since=seconds,
    )  # fmt: skip
    return Entry(rank=rank, note=note, **others)


def test_ranks_that_answer_are_not_blamed():
    assert judge([entry(0), entry(1, inside=True), entry(2, silent_seconds=4.9)], timeout_seconds=5) is None


def test_a_rank_that_ended_without_a_word_is_named_with_host_process_and_place():
    gone = entry(1, entered=11, doing="the backward pass of step 12", is_gone=True)
    assert judge([entry(0, inside=True, seconds=3.0), gone, entry(2)], timeout_seconds=5) == (
        "rank 1 (host node-0, process 4001) is gone: it ended without a word in the backward pass of step 12 (killed, "
        "or out of memory); rank 0 waits in the gradient all-reduce of step 12, for 3 s"
    )


def test_a_silent_rank_is_named_with_the_collective_that_it_has_not_entered():
    silent = entry(1, entered=11, doing="data loading of step 12", silent_seconds=43.2)
    waiting = [entry(rank, inside=True, seconds=41.0) for rank in (0, 2, 3)]
    assert judge([waiting[0], silent, *waiting[1:]], timeout_seconds=40) == (
        "rank 1 (host node-0, process 4001) has not entered the gradient all-reduce of step 12; its last sign of life "
        "was 43 s ago, in data loading of step 12; ranks 0, 2 and 3 wait in the gradient all-reduce of step 12, for "
        "41 s (stopped, its machine frozen, or cut off from the network)"
    )


def test_a_rank_that_lives_but_does_not_come_is_named_after_the_timeout():
    late = entry(2, entered=11, doing="data loading of step 12")
    roll = [entry(0, inside=True, seconds=6.0), entry(1, inside=True, seconds=6.1), late]
    assert judge(roll, timeout_seconds=7) is None
    found = judge(roll, timeout_seconds=5)
    assert found.startswith(
        "rank 2 (host node-1, process 4002) has not entered the gradient all-reduce of step 12; its"
    )
    assert "ranks 0 and 1 wait" in found


@pytest.mark.parametrize(("silent", "is_suspected"), [(0.5, False), (4.8, True)])
def test_a_late_rank_that_is_quiet_may_be_cut_off_and_one_that_talks_is_not(silent, is_suspected):
    """The others' wait ends a moment before the silence has lasted as long."""
    late = entry(1, entered=11, doing="the forward pass of step 12", silent_seconds=silent)
    found = judge([entry(0, inside=True, seconds=5.0), late], timeout_seconds=5)
    assert ("cut off from the network" in found) == is_suspected


def test_nobody_is_late_for_a_collective_that_may_be_waited_for():
    roll = [entry(0, entered=11), entry(1, inside=True, seconds=900.0, patient=True)]
    assert judge(roll, timeout_seconds=5) is None


def test_nobody_is_late_while_the_others_work():
    assert judge([entry(0, entered=11), entry(1, inside=False, seconds=900.0)], timeout_seconds=5) is None


def test_an_error_that_a_rank_reports_is_passed_on():
    failed = entry(1, error="row 17 of rows.jsonl cannot be read")
    assert judge([entry(0), failed], timeout_seconds=5) == (
        "rank 1 (host node-0, process 4001) ended with an error: row 17 of rows.jsonl cannot be read"
    )


def test_several_lost_ranks_are_counted():
    gone = [entry(rank, is_gone=True) for rank in range(1, 7)]
    assert judge([entry(0), *gone], timeout_seconds=5).endswith("; and so are ranks 2, 3, 4 and 2 more")
    assert "; and so is rank 2" in judge([entry(0), *gone[:2]], timeout_seconds=5)


@pytest.mark.parametrize(
    ("roll", "expected"),
    [
        (
            [entry(0, inside=True), entry(1, entered=11)],
            "rank 1 (host node-0, process 4001) has not entered the gradient",
        ),
        (
            [entry(0, inside=True), entry(1, inside=True, silent_seconds=3.0)],
            "rank 1 (host node-0, process 4001) was last heard of 3 s ago (stopped, its machine frozen, or cut off",
        ),
        (
            # cut off before it could say that it entered, and torch gives up before the silence is long enough
            [entry(0, inside=True, seconds=5.1), entry(1, entered=11, silent_seconds=4.9)],
            "in the update of step 12; rank 0 waits in the gradient all-reduce of step 12, for 5 s (stopped, its "
            "machine frozen, or cut off from the network)",
        ),
        ([entry(0, inside=True), entry(1, inside=True)], "failed on one of them: its connections are broken"),
        (
            [entry(0, inside=True), entry(1, has_left=True, farewell="it was stopped as asked")],
            "has left (it was stopped",
        ),
    ],
)
def test_a_complaint_names_whoever_is_most_likely_to_blame(roll, expected):
    assert expected in blame(roll, complaint=f"the {ALL_REDUCE}", timeout_seconds=60)


def test_who_has_left_in_order_is_not_taken_for_silent():
    roll = [
        entry(0, inside=True),
        entry(1, has_left=True, silent_seconds=99.0, farewell="finished"),
        entry(2, entered=11),
    ]
    assert blame(roll, complaint="the barrier", timeout_seconds=5) == (
        "the barrier failed: rank 1 (host node-0, process 4001) has left (finished)"
    )
