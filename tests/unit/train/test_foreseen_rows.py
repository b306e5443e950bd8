"""Rows that are not read are assumed as long as they may be, and every assumption is told."""

from __future__ import annotations

from whet.recipe import parse_recipe
from whet.train.foreseen_rows import assume_rows


def recipe(*overrides):
    text = "name: a\noutput: b\ndata: {train: [{source: r.jsonl}], max_length: 1024}\n"
    return parse_recipe(text, "r.yaml", overrides)


def assume(made, **given):
    settings = {"num_rows": 1000, "mean_length": 200, "longest": 600, "why": "no row was read", **given}
    return assume_rows(made, **settings)


def test_the_largest_pass_has_one_longest_row_and_others_of_the_mean():
    largest = assume(recipe()).largest(4)
    assert largest.size.lengths == (600, 200, 200, 200)
    assert (largest.counted.tokens, largest.counted.taught) == (1200, 720)


def test_what_is_not_given_is_the_most_it_can_be_and_is_told():
    rows = assume(recipe(), mean_length=None, longest=None)
    assert rows.mean_length == 1024 and rows.largest(2).counted.tokens == 2048
    told = " ".join(rows.notes)
    assert "no row was read" in told and "--mean-length" in told and "--longest" in told and "60% of the tokens" in told


def test_no_row_is_longer_than_the_recipe_takes():
    assert assume(recipe("data.max_length=100")).largest(2).size.lengths == (100, 100)


def test_packs_are_full_and_as_many_as_the_tokens_fill():
    rows = assume(recipe("batch.unit=packs"))
    assert rows.num_units == -(-1000 * 200 // 1024) and rows.num_samples == 1000
    assert rows.largest(3).size.lengths == (1024,) * 3


def test_shorter_rows_make_smaller_passes():
    rows = assume(recipe()).cut_to(150)
    assert rows.largest(2).size.lengths == (150, 150) and rows.mean_length == 150
    same = assume(recipe())
    assert same.cut_to(1024).largest(2) == same.largest(2)
