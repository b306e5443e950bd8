import pytest

from whet.data.overlap import find_overlap, refuse_overlap
from whet.errors import DataError
from whet.types import Example, Message


def _example(question, name, parameters=""):
    turns = (Message(role="user", content=question), Message(role="assistant", content="4", is_taught=True))
    return Example(id=name, messages=turns, task="plain_answer", origin=name, parameters=parameters)


def test_disjoint_sets_have_no_overlap():
    assert find_overlap([_example("2+2?", "a")], [_example("2+3?", "b")]) == ()
    refuse_overlap([_example("2+2?", "a")], [_example("2+3?", "b")], eval_name="held_out")


@pytest.mark.parametrize("twin", ["2 + two?", " 2  +\nTWO? ", "\uff12 + two?"])
def test_equal_questions_are_found_whatever_their_spacing_case_and_unicode_form(twin):
    (pair,) = find_overlap([_example("x", "first"), _example(twin, "second")], [_example("2 + two?", "held")])
    assert (pair.eval_origin, pair.train_origin, pair.kind) == ("held", "second", "question")


def test_equal_parameters_are_found_behind_different_words():
    (pair,) = find_overlap([_example("Reverse: a, b", "t", "key")], [_example("Turn around: a, b", "e", "key")])
    assert pair.kind == "parameters"


def test_missing_parameters_are_not_equal():
    assert find_overlap([_example("one", "t")], [_example("two", "e")]) == ()


def test_overlap_is_refused_with_the_rows():
    train = [_example(f"q{n}", f"train.jsonl:{n}") for n in range(9)]
    with pytest.raises(DataError, match=r"(?s)held_out: 2 of 3 rows are also training.*e1 = train.jsonl:3") as caught:
        refuse_overlap(train, [_example("q3", "e1"), _example("q4", "e2"), _example("new", "e3")], eval_name="held_out")
    assert caught.value.exit_code == 3
