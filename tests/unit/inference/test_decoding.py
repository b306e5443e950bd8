import pytest

from whet.errors import RecipeError
from whet.inference.decoding import Decoding

GREEDY = Decoding(max_new_tokens=5)


def test_the_text_of_plain_greedy_decoding_is_short():
    assert str(GREEDY) == "greedy, at most 5 new tokens"


@pytest.mark.parametrize(
    "other",
    [
        Decoding(max_new_tokens=6),
        Decoding(max_new_tokens=5, max_total_tokens=100),
        Decoding(max_new_tokens=5, stop_strings=("\n\n",)),
        Decoding(max_new_tokens=5, stop_strings=("\n", "\n")),
        Decoding(max_new_tokens=5, temperature=0.7),
        Decoding(max_new_tokens=5, temperature=0.70000001),
        Decoding(max_new_tokens=5, temperature=0.7, top_k=40),
        Decoding(max_new_tokens=5, temperature=0.7, top_p=0.9),
        Decoding(max_new_tokens=5, temperature=0.7, seed=1),
    ],
    ids=str,
)
def test_whatever_changes_an_answer_changes_the_text(other):
    assert str(other) != str(GREEDY)
    assert other == GREEDY or str(other) not in {
        str(Decoding(max_new_tokens=5, temperature=0.7, top_k=41)),
        str(Decoding(max_new_tokens=5, temperature=0.7, top_p=0.91)),
        str(Decoding(max_new_tokens=5, temperature=0.7, seed=2)),
        str(Decoding(max_new_tokens=5, stop_strings=("\\n\\n",))),
    }


@pytest.mark.parametrize(
    "other",
    [
        Decoding(max_new_tokens=5, batch_rows=1),
        Decoding(max_new_tokens=5, temperature=0, seed=3, top_k=7, top_p=0.5),
        Decoding(max_new_tokens=5, temperature=0.0),
    ],
    ids=repr,
)
def test_what_changes_no_answer_is_no_part_of_the_text(other):
    assert str(other) == str(GREEDY)


def test_the_order_of_stop_strings_is_no_part_of_the_text():
    one, other = (Decoding(max_new_tokens=5, stop_strings=order) for order in (("a", "b"), ("b", "a")))
    assert str(one) == str(other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -0.1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"temperature": float("inf")}, "temperature must be 0"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"stop_strings": ("a", "")}, "empty stop string"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"batch_rows": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(RecipeError, match=said):
        Decoding(**({"max_new_tokens": 5} | settings))
