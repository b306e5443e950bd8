import random

import numpy as np
import pytest

from whet.data.datasets import TASKS, generated, judge
from whet.data.datasets.generated_rules import RULES
from whet.data.rows import normalise
from whet.errors import DataError, RecipeError
from whet.types import Example, Message

pytestmark = pytest.mark.slow

pytest.importorskip("reasoning_gym", reason="needs whet[demo]")

NARROW = {
    "word_sequence_reversal": {"max_words": 3},
    "family_relationships": {"max_family_size": 4},
    "leg_counting": {"max_animals": 3, "max_instances": 3},
    "chain_sum": {"max_terms": 2, "max_digits": 1},
    "gsm_symbolic": {},
    "basic_arithmetic": {"max_terms": 2, "max_digits": 1},
    "spell_backward": {"max_word_len": 4},
}
"""Options that make a task's problems repeat often: disjointness is tested where it is hard."""


def _rows(task, split, stop, *, start=0, seed=1, **options):
    return generated.generate_rows(task, split=split, start=start, stop=stop, seed=seed, options=options)


@pytest.mark.parametrize("task", NARROW)
def test_train_and_test_share_no_question_and_no_parameters_whatever_the_seed(task):
    train = (
        _rows(task, "train", 120, **NARROW[task]) if task != "chain_sum" else _rows(task, "train", 100, **NARROW[task])
    )
    held_out = [row for seed in (1, 2, 3) for row in _rows(task, "test", 20, seed=seed, **NARROW[task])]
    assert not {normalise(row.question) for row in train} & {normalise(row.question) for row in held_out}
    assert not {row.key for row in train} & {row.key for row in held_out}
    for rows in (train, held_out[:20]):
        assert len({row.key for row in rows}) == len({normalise(row.question) for row in rows}) == len(rows)


@pytest.mark.parametrize("task", NARROW)
def test_equal_questions_always_have_equal_keys(task):
    key_of = {}
    entries = generated._generate_entries(task, 5, NARROW[task])
    for entry, _ in (next(entries) for _ in range(1500)):
        key = generated._hash_parameters(task, RULES.get(task, generated.Rule()), entry)
        assert key_of.setdefault(normalise(entry["question"]), key) == key


@pytest.mark.parametrize("task", NARROW)
def test_the_taught_answer_ends_in_the_asked_for_format_and_is_judged_right(task):
    for row in _rows(task, "train", 40):
        assert row.answer.splitlines()[-1] == f"Answer: {row.gold}"
        assert generated.extract(row.answer) == (row.gold, True)
        assert generated.is_correct(row.gold, (row.gold,))
        assert not generated.is_correct(row.gold + "1x", (row.gold,))


def test_rows_are_deterministic_and_slices_continue_each_other():
    whole = _rows("chain_sum", "train", 60)
    assert _rows("chain_sum", "train", 60) == whole
    assert _rows("chain_sum", "train", 30) + _rows("chain_sum", "train", 60, start=30) == whole


def test_neighbouring_seeds_share_hardly_any_problem():
    one, two = (_rows("word_sequence_reversal", "train", 300, seed=seed) for seed in (1, 2))
    assert len({row.key for row in one} & {row.key for row in two}) < 10


def test_generating_leaves_the_global_random_state_alone():
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = _rows("list_functions", "train", 5)
    _rows("pool_matrix", "train", 2)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(4)
    assert _rows("list_functions", "train", 5) == first


def test_too_many_rows_are_refused_with_the_number_there_is():
    with pytest.raises(DataError, match=r"reasoning-gym:coin_flip: only \d+ different test problems were found, 5000"):
        _rows("coin_flip", "test", 5000, min_trials=3, max_trials=4)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("chain_summ", {}, "no such task\n  mend: did you mean chain_sum?"),
        ("chain_sum", {"terms": 3}, "its options are allow_negation, max_digits"),
        ("chain_sum", {"min_terms": 5, "max_terms": 2}, "max_terms must be >= min_terms"),
    ],
)
def test_wrong_tasks_and_options_are_refused_with_the_right_ones(task, options, message):
    with pytest.raises(RecipeError) as caught:
        _rows(task, "train", 1, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "extracted", "has_format"),
    [
        ("Answer: son\n\nHow is A related to B?\nAnswer: wife", "son", True),
        ("He is her son.\nson", "son", False),
        ('"son"', "son", False),
        ("", "", False),
    ],
)
def test_extraction_is_lenient_and_takes_the_first_answer(text, extracted, has_format):
    assert generated.extract(text) == (extracted, has_format)


@pytest.mark.parametrize(
    ("extracted", "gold", "is_correct"),
    [
        ("Mother", "mother", True),
        ("mother.", "mother", True),
        ("grandmother", "mother", False),
        ("mother of", "mother", False),
        ("b,a", "b, a", True),
        ("b a", "b, a", False),
        ("a, b", "b, a", False),
        ("1,234", "1234", True),
        ("$12.00", "12", True),
        ("-12", "12", False),
        ("12 legs", "12", True),
        ("12 legs and 3 tails", "12", False),
        ("17.6", "18", False),
        ("", "12", False),
    ],
)
def test_answers_are_compared_by_text_or_by_number(extracted, gold, is_correct):
    assert generated.is_correct(extracted, (gold,)) is is_correct


def test_a_task_with_several_right_answers_is_judged_by_its_own_scorer():
    row = next(row for row in _rows("palindrome_generation", "train", 50) if len(set(row.gold)) >= 4)
    half = len(row.gold) // 2
    letters = list(row.gold[:half])
    other = next(
        text
        for order in (letters[::-1], letters[1:] + letters[:1], sorted(letters))
        if (text := "".join(order) + row.gold[half : len(row.gold) - half] + "".join(order[::-1])) != row.gold
    )
    turns = (Message(role="user", content=row.question), Message(role="assistant", content=row.answer))
    example = Example(id="1", messages=turns, task="generated", golds=(row.gold,), origin=row.origin)
    assert judge(example, f"Answer: {other}").is_correct
    assert not judge(example, f"Answer: {other}x").is_correct
    assert not TASKS["generated"].is_correct(other, (row.gold,))


def test_scorers_that_evaluate_text_are_never_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (row,) = _rows("countdown", "train", 1)
    assert generated.is_correct("__import__('os').system('touch canary')", (row.gold,), origin=row.origin) is False
    assert not list(tmp_path.iterdir())


def test_a_missing_generator_names_its_extra(monkeypatch):
    import sys

    generated._open_dataset.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(RecipeError, match=r"pip install 'whet\[demo\]'"):
        _rows("chain_sum", "train", 1)


@pytest.mark.parametrize(
    ("line", "gold", "expected"),
    [
        ("33 + 68 = 101", "101", True),
        ("The final answer is 101.", "101", True),
        ("33 + 68 = 101, plus 2 makes 103", "101", False),
        ("-56", "56", False),
        ("The reversed list is: a, rain, farm", "a, rain, farm", True),
        ("Reverse this list of words: farm, rain, a", "a, rain, farm", False),
        ("a, rain, farm and more", "a, rain, farm", False),
    ],
)
def test_an_answer_in_other_words_counts_and_a_wrong_one_does_not(line: str, gold: str, expected: bool) -> None:
    assert generated.is_correct(line, (gold,)) is expected
