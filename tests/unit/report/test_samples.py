"""The rows shown are a fixed draw of every outcome."""

import random

from whet.report.run_folder import Answer, Pair
from whet.report.samples import choose_samples


def pair(id: str, base: bool, tuned: bool) -> Pair:
    def answer(is_correct: bool) -> Answer:
        return Answer(text="t", extracted="e", is_correct=is_correct, has_format=True, was_cut=False)

    return Pair(id=id, prompt="p", golds=("1",), base=answer(base), tuned=answer(tuned))


def rows(wins: int, losses: int, both: int, neither: int) -> list[Pair]:
    outcomes = [(False, True)] * wins + [(True, False)] * losses + [(True, True)] * both + [(False, False)] * neither
    return [pair(f"row-{i}", *outcome) for i, outcome in enumerate(outcomes)]


def shown(pairs: list[Pair]) -> dict[str, int]:
    return {group.heading: len(group.pairs) for group in choose_samples(pairs)}


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
