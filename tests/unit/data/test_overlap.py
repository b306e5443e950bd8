import json
import time
from dataclasses import replace

import pytest

from whet.data.overlap import OverlapCounter, find_seen_rows, report_overlap
from whet.types import Example, Message


def _example(question, name, parameters=""):
    turns = (Message(role="user", content=question), Message(role="assistant", content="4", is_taught=True))
    return Example(id=name, messages=turns, task="plain_answer", origin=name, parameters=parameters)


INSTRUCTION = "Work it out step by step and write the answer after four hashes."


def _rows(path, instruction=""):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [_example(f"{row['question']}{instruction}", f"{path.name}:{i + 1}") for i, row in enumerate(rows)]


@pytest.mark.parametrize("instruction", ["", f"\n\n{INSTRUCTION}"])
def test_gsm8k_shares_80_test_questions_by_8_words_and_3_by_13_whatever_the_instruction(test_data, instruction):
    train, held = (_rows(test_data / "gsm8k" / f"{name}.jsonl", instruction) for name in ("train", "test"))
    started = time.process_time()
    report = report_overlap(iter(train), {"gsm8k": held})["gsm8k"]
    assert time.process_time() - started < 3
    assert (report.num_rows, report.num_train_rows, report.num_exact) == (1319, 7473, 0)
    assert report.num_same_parameters is None
    assert [(each.n, each.num_rows) for each in report.ngrams] == [(8, 80), (13, 3)]
    # the instruction has 13 words
    assert [each.num_boilerplate for each in report.ngrams] == ([6, 1] if instruction else [0, 0])
    assert [pair.kind for pair in report.pairs] == ["13-gram"] * 3 + ["8-gram"] * 5


def test_three_rows_of_gsm8k_are_seen_in_training(test_data):
    train, held = (_rows(test_data / "gsm8k" / f"{name}.jsonl") for name in ("train", "test"))
    assert len(find_seen_rows(iter(train), {"gsm8k": held})["gsm8k"]) == 3
    assert find_seen_rows(held[7:8], {"gsm8k": held})["gsm8k"] == (held[7].id,)


def test_rows_are_seen_by_question_by_what_they_are_made_from_or_by_thirteen_words_each_set_for_itself():
    thirteen = "a train leaves the old station at noon and rides for three hours"
    twelve = "she bought two bottles of cold milk for one dollar and left"
    train = [_example(f"{thirteen} more", "t1"), _example(f"{twelve} then", "t2"), _example("ONE  two?", "t3")]
    train.append(replace(_example("Sum 1 and 2", "t4", "key"), task="generated"))
    a = [_example(f"now {thirteen}", "a1"), _example(f"now {twelve}", "a2"), _example("one TWO?", "a3")]
    b = [_example("else", "b2"), replace(_example("Add 1, 2", "b1", "key"), task="generated")]
    assert find_seen_rows(train, {"a": a, "b": b, "c": []}) == {"a": ("a1", "a3"), "b": ("b1",), "c": ()}


def test_boilerplate_of_thirteen_words_shows_nothing():
    words = f"{INSTRUCTION} Then stop at once and say so."
    train = [_example(f"{words} {n} apples?", f"t{n}") for n in range(50)]
    assert find_seen_rows(train, {"held": [_example(f"{words} 99 pears?", "e")]}) == {"held": ()}


def test_each_set_is_reported_on_its_own():
    fox, milk = "the quick brown fox jumps over the lazy dog", "she bought two bottles of milk for a dollar"
    train = [_example(f"then {fox}", "t1"), _example(f"first {milk}", "t2")]
    rows = [_example(f"so {milk}", "a1"), _example("nothing alike", "a2"), _example(f"now {fox}", "a3")]
    reports = report_overlap(train, {"a": rows, "b": [_example("else", "b1")], "c": rows[2:]})
    shared = {name: [each.num_rows for each in report.ngrams] for name, report in reports.items()}
    assert shared == {"a": [2, 0], "b": [0, 0], "c": [1, 0]}
    assert [(pair.eval_origin, pair.train_origin, pair.kind, pair.shared) for pair in reports["a"].pairs] == [
        ("a1", "t2", "8-gram", "she bought two bottles of milk for a"),
        ("a3", "t1", "8-gram", "the quick brown fox jumps over the lazy"),
    ]
    assert [pair.eval_origin for pair in reports["c"].pairs] == ["a3"]


def test_an_ngram_of_more_than_one_percent_of_the_rows_is_boilerplate():
    words = "state the final answer to the following arithmetic problem"

    def num_sharing(num_with, num_rows):
        train = [_example(words if i < num_with else f"row {i}", f"t{i}") for i in range(num_rows)]
        (eight, _) = report_overlap(train, {"held": [_example(f"x {words}", "e")]})["held"].ngrams
        return eight.num_rows, eight.num_boilerplate

    assert num_sharing(10, 1000) == (1, 0)
    assert num_sharing(11, 1000) == (0, 2)
    # a handful of rows proves no custom
    assert num_sharing(4, 50) == (1, 0)
    assert num_sharing(5, 50) == (0, 2)
    assert num_sharing(0, 50) == (0, 0)


def test_the_end_of_a_fixed_sentence_with_one_number_more_is_boilerplate_too():
    """Otherwise every sum of two numbers would count as seen when one of its numbers is."""
    words = "state the final answer to the following arithmetic problem"
    train = [_example(f"{words} {i} + {i + 1} =", f"t{i}") for i in range(10, 60)]
    rows = [_example(f"{words} 33 + 41 =", "e"), _example(f"{words} 99; t u v w x y z 10 11", "f")]
    train.append(_example("He said t u v w x y z 10 indeed", "leaked"))
    report = report_overlap(train, {"held": rows})["held"]
    assert [(pair.eval_origin, pair.train_origin) for pair in report.pairs] == [("f", "leaked")]


def test_a_question_that_is_repeated_in_every_training_row_is_still_exact():
    train = [_example("one two three four five six seven eight nine", f"t{i}") for i in range(9)]
    report = report_overlap(train, {"held": [_example("ONE two three four five six seven eight  nine", "e")]})["held"]
    assert report.num_exact == 1
    assert [(pair.kind, pair.train_origin) for pair in report.pairs] == [("same question", "t0")]


def test_generated_rows_say_whether_their_parameters_are_disjoint():
    def row(question, name, parameters):
        return replace(_example(question, name, parameters), task="generated")

    train = [row("Sum 1 and 2", "t", "key")]
    shared = report_overlap(train, {"held": [row("Add 1, 2", "e", "key"), row("Add 3, 4", "f", "other")]})["held"]
    assert (shared.num_exact, shared.num_same_parameters) == (0, 1)
    assert [(pair.kind, pair.eval_origin) for pair in shared.pairs] == [("same parameters", "e")]
    assert report_overlap(train, {"held": [row("Add", "e", "other")]})["held"].num_same_parameters == 0


def test_the_same_bare_question_under_another_instruction_is_exact():
    train = [_example("How many?\n\nThink.", "t", "hash of the bare question")]
    held = [_example("How many?\n\nAnswer in one word.", "e", "hash of the bare question")]
    assert report_overlap(train, {"held": held})["held"].num_exact == 1


@pytest.mark.parametrize("chunk_rows", [1, 2, 7])
def test_the_report_does_not_depend_on_the_chunks(chunk_rows):
    train = [_example(f"a b c d e f g h {i % 3} j k l m n {i % 2}", f"t{i}") for i in range(7)]
    held = {"held": [_example(f"a b c d e f g h {i} j k l m n", f"e{i}") for i in range(4)], "none": []}
    counter = OverlapCounter(held)
    for start in range(0, len(train), chunk_rows):
        counter.add(train[start : start + chunk_rows])
    assert counter.report() == report_overlap(train, held)
    assert counter.report()["none"].num_rows == 0


def test_a_bare_text_is_searched_for_the_questions():
    text = Message(role="assistant", content="Forum. How many clips did Natalia sell in April? 48.", is_taught=True)
    book = Example(id="book", messages=(text,), task="text", origin="book:1")
    held = {"held": [_example("How many clips did Natalia sell in April?", "e"), _example("How many?", "f")]}
    report = report_overlap([book, book], held)["held"]
    assert [(pair.eval_origin, pair.train_origin) for pair in report.pairs] == [("e", "book:1")]


def test_without_training_rows_nothing_overlaps():
    report = report_overlap([], {"held": [_example("a b c d e f g h i", "e")]})["held"]
    assert (report.num_train_rows, report.num_exact, report.pairs) == (0, 0, ())
