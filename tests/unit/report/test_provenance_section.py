"""Where settings came from: as recorded, else what differs from the default."""

from __future__ import annotations

from whet.recipe import dump_recipe, parse_recipe
from whet.report.provenance_section import setting_rows

RECIPE = "name: a\noutput: runs/a\noptim: {lr: 5.0e-4}\ndata: {train: [{source: rows.jsonl}]}\n"


def test_recorded_origins_are_shown_and_what_was_set_comes_first():
    settings = {"seed": {"value": 42, "origin": "default"}, "optim.lr": {"value": 5e-4, "origin": "demo.yaml:3"}}
    rows = setting_rows(RECIPE, settings, {"total_steps": 9, "unknown": 1})
    assert rows[:2] == [("optim.lr", "0.0005", "demo.yaml:3", True), ("seed", "42", "default", False)]
    assert [row[0] for row in rows[2:]] == ["plan.total_steps"] and rows[2][2].startswith("derived when the run began")


def test_without_a_record_only_values_that_are_no_default_count_as_set():
    rows = setting_rows(dump_recipe(parse_recipe(RECIPE)), {}, {})
    assert {row[0] for row in rows if row[3]} == {"name", "output", "optim.lr", "data.train.0.source"}
    assert ("seed", "42", "default", False) in rows


def test_a_recipe_that_cannot_be_read_has_no_rows():
    assert setting_rows("no: recipe", {}, {}) == []
