"""The rows shown are the largest changes and a fixed draw of the others, or of every outcome."""

import random

from whet.report.run_folder import Answer, Pair
from whet.report.samples import choose_samples
from whet.types import Comparison
from whet.verdict import from_document


def pair(id: str, base: bool, tuned: bool) -> Pair:
    def answer(is_correct: bool) -> Answer:
        return Answer(text="t", extracted="e", is_correct=is_correct, has_format=True, was_cut=False)

    return Pair(id=id, prompt="p", golds=("1",), base=answer(base), tuned=answer(tuned))


def rows(wins: int, losses: int, both: int, neither: int) -> list[Pair]:
    outcomes = [(False, True)] * wins + [(True, False)] * losses + [(True, True)] * both + [(False, False)] * neither
    return [pair(f"row-{i}", *outcome) for i, outcome in enumerate(outcomes)]


def shown(pairs: list[Pair]) -> dict[str, int]:
    return {group.heading: len(group.samples) for group in choose_samples(pairs)}


def test_every_outcome_has_its_share() -> None:
    assert shown(rows(50, 50, 50, 50)) == {
        "Only tuned is right": 4,
        "Only base is right": 4,
        "Both are right": 2,
        "Both are wrong": 2,
    }


def test_places_left_over_are_used_and_never_more_than_twelve() -> None:
    assert shown(rows(50, 1, 0, 50)) == {"Only tuned is right": 9, "Only base is right": 1, "Both are wrong": 2}
    assert shown(rows(0, 0, 3, 1)) == {"Both are right": 3, "Both are wrong": 1}
    assert shown(rows(0, 0, 0, 99)) == {"Both are wrong": 12}
    assert choose_samples([]) == ()


def test_the_choice_depends_on_ids_and_not_on_the_order_of_rows() -> None:
    found = rows(30, 10, 20, 40)
    shuffled = random.Random(3).sample(found, len(found))
    assert choose_samples(found) == choose_samples(shuffled)


def test_groups_count_all_their_rows() -> None:
    assert [group.num_rows for group in choose_samples(rows(30, 10, 0, 40))] == [30, 10, 40]


def comparison(gains: list[str], setbacks: list[str]) -> Comparison:
    interval = {"estimate": 0.1, "low": 0.0, "high": 0.2}
    metric = {"name": "token_f1", "unit": "share, 0 to 1", "higher_is_better": True, "num_rows": 9, "num_left_out": 0}
    metric |= {"base_mean": 0.2, "tuned_mean": 0.3, "difference": interval, "p_value": 0.1, "adjusted_p": 0.1}
    rates = dict.fromkeys(("base_format_rate", "tuned_format_rate", "base_stop_rate", "tuned_stop_rate"), 1.0)
    return from_document({
        "dataset": "d", "num_rows": 9, "wins": 30, "losses": 3, "p_value": 0.1, "verdict": "not distinguishable",
        "metrics": [metric | {"detectable": None, "verdict": None}],
        "gains": [{"example_id": id, "base": 0.25, "tuned": 0.75} for id in gains],
        "setbacks": [{"example_id": id, "base": 1.0, "tuned": 0.0} for id in setbacks],
        **dict.fromkeys(("base_accuracy", "tuned_accuracy", "difference"), interval), **rates,
    })  # fmt: skip


def test_the_largest_changes_come_first_in_the_order_of_the_comparison_and_others_are_named_so() -> None:
    pairs = rows(3, 3, 3, 3)
    gains, setbacks, others = choose_samples(pairs, comparison(["row-11", "row-2", "gone"], ["row-5"]))
    assert (gains.heading, gains.num_rows) == ("Largest gains", 30)
    assert [(sample.pair.id, sample.score) for sample in gains.samples] == [
        ("row-11", "25.0 % to 75.0 %"),
        ("row-2", "25.0 % to 75.0 %"),
    ]
    assert [sample.pair.id for sample in setbacks.samples] == ["row-5"]
    assert (len(others.samples), others.num_rows) == (4, 9)
    assert not {sample.pair.id for sample in others.samples} & {"row-11", "row-2", "row-5"}
    assert (
        choose_samples(pairs[::-1], comparison(["row-11"], []))[1]
        == choose_samples(pairs, comparison(["row-11"], []))[1]
    )
