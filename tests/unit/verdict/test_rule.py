"""Better and worse need interval and adjusted p; all main sets decide, guards can only forbid."""

from dataclasses import replace

import pytest

from whet.types import Comparison, Interval
from whet.verdict import decide, overall
from whet.verdict.rule import without_seen_rows

ABOVE = Interval(estimate=0.1, low=0.01, high=0.2)
ACROSS = Interval(estimate=0.1, low=-0.01, high=0.2)
BELOW = Interval(estimate=-0.1, low=-0.2, high=-0.01)


def test_a_verdict_needs_interval_and_p_to_agree() -> None:
    assert decide(ABOVE, 0.049) == "better"
    assert decide(ABOVE, 0.05) == "not distinguishable"
    assert decide(ACROSS, 0.001) == "not distinguishable"
    assert decide(BELOW, 0.049) == "worse"
    assert decide(BELOW, 0.06) == "not distinguishable"
    assert decide(Interval(estimate=0.0, low=0.0, high=0.0), 0.001) == "not distinguishable"


def test_where_less_is_better_a_fall_is_better() -> None:
    assert decide(BELOW, 0.01, higher_is_better=False) == "better"
    assert decide(ABOVE, 0.01, higher_is_better=False) == "worse"
    assert decide(ACROSS, 0.01, higher_is_better=False) == "not distinguishable"


def test_better_must_survive_without_the_rows_seen_in_training() -> None:
    assert without_seen_rows("better", "better") == "better"
    for rest in ("not distinguishable", "worse", None):
        assert without_seen_rows("better", rest) == "not distinguishable"
    assert without_seen_rows("worse", None) == "worse"
    assert without_seen_rows("not distinguishable", "better") == "not distinguishable"


def comparison(dataset: str, verdict: str, role: str = "main", **changes: object) -> Comparison:
    plain = Comparison(
        dataset=dataset, num_rows=9, base_accuracy=ABOVE, tuned_accuracy=ABOVE, difference=ABOVE, wins=1, losses=0,
        p_value=0.1, verdict=verdict, base_format_rate=0.0, tuned_format_rate=1.0, base_stop_rate=1.0,
        tuned_stop_rate=1.0, role=role,
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["better"], "better"),
        (["better", "better"], "better"),
        (["better", "not distinguishable"], "not distinguishable"),
        (["better", "worse"], "worse"),
        (["not distinguishable", "worse"], "worse"),
        ([], "not distinguishable"),
    ],
)
def test_every_main_set_must_be_better_and_one_that_is_worse_decides(verdicts: list[str], expected: str) -> None:
    found = overall([comparison(f"set {i}", verdict) for i, verdict in enumerate(verdicts)])
    assert found.verdict == expected
    assert found.passes_gate == (expected == "better")


def test_a_guard_that_lost_shuts_the_gate_and_is_named_in_the_same_line() -> None:
    main = comparison("sums", "better")
    lost = overall([main, comparison("talk", "worse", role="guard")])
    assert (lost.verdict, lost.passes_gate) == ("better", False)
    assert lost.sentence == "Better on sums, but worse on the guard set talk."
    assert lost.reasons == ("talk: lost (guard)",)
    kept = overall([main, comparison("talk", "not distinguishable", role="guard")])
    assert kept.passes_gate
    assert kept.sentence == "Better on sums; nothing shown to be lost on the guard set talk."


def test_a_guard_that_lost_only_without_rows_seen_in_training_is_lost_too() -> None:
    hidden = comparison("talk", "not distinguishable", role="guard", verdict_without_seen="worse")
    assert not overall([comparison("sums", "better"), hidden]).passes_gate


def test_other_sets_and_a_guard_that_gained_decide_nothing() -> None:
    others = [comparison("extra", "worse", role="other"), comparison("talk", "better", role="guard")]
    assert overall([comparison("sums", "better"), *others]).passes_gate
    assert not overall([comparison("sums", "not distinguishable"), *others]).passes_gate
    none = overall(others)
    assert (none.verdict, none.passes_gate) == ("not distinguishable", False)
    assert "No main set" in none.sentence


def test_several_main_sets_are_named_with_their_verdicts() -> None:
    found = overall([comparison("sums", "better"), comparison("words", "worse")])
    assert found.sentence == "Worse over 2 main sets (sums better, words worse)."
    assert found.reasons == ("words: worse",)
