from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whet.data.row_keys import find_equal, occurrences, parameters_key, question_key, text_key
from whet.types import Example, Message


def _example(question="What is 2+2?", answer="4", **others):
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer, is_taught=True))
    return Example(id="00" * 8 + "-0", messages=turns, task="plain_answer", **others)


@given(st.lists(st.integers(0, 4), max_size=30))
def test_occurrences_count_what_stood_before(keys):
    seen: Counter[int] = Counter()
    expected = []
    for key in keys:
        expected.append(seen[key])
        seen[key] += 1
    assert occurrences(np.array(keys, dtype=np.uint64)).tolist() == expected


@given(st.lists(st.integers(0, 5), max_size=10), st.lists(st.integers(0, 5), max_size=10))
def test_equal_keys_are_found_at_their_first_place_and_zero_equals_nothing(keys, among):
    expected = {i: among.index(key) for i, key in enumerate(keys) if key and key in among}
    assert find_equal(keys, np.array(among, dtype=np.uint64)) == expected


def test_a_question_is_known_again_whatever_its_case_space_form_and_answer():
    key = question_key(_example())
    assert key == question_key(_example("  what IS\n2+2? ", "5"))
    assert key == question_key(_example("What is \uff12+2?"))
    assert key != question_key(_example("What is 2+3?"))


def test_texts_without_a_question_are_told_apart_by_what_they_say():
    text = replace(_example(), messages=(Message(role="assistant", content="Once.", is_taught=True),))
    other = replace(text, messages=(Message(role="assistant", content="Twice.", is_taught=True),))
    assert question_key(text) != question_key(other)


def test_keys_are_the_same_on_every_machine():
    assert text_key("whet") == 0x4734D10BB433E7B6
    assert parameters_key(_example()) == 0 and parameters_key(_example(parameters="3+4")) == text_key("3+4")
