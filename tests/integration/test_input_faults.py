"""Rows that cannot be used and a loss that is not finite: the run stops before a weight is touched."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow

GOOD = '{"question": "What is 2 plus 2?", "answer": "It is 4."}'
BAD = {
    '{"question": "no answer"}': "missing key (field 'answer'",
    '{"question": null, "answer": "4"}': "null where text is needed (field 'question'",
    '{"question": "2+2?", "answer": 4}': "not text (field 'answer', found a number",
    '{"question": "2+2?", "answer": ["4"]}': "not text (field 'answer', found a list",
    '{"question": "2+2?", "answer": ""}': "empty text (field 'answer'",
    '{"question": "2+2?", "answer": "  "}': "empty text (field 'answer'",
    '{"question": "2+2?", "answer": true}': "not text (field 'answer', found a boolean",
    '{"question": {}, "answer": "4"}': "not text (field 'question', found an object",
    '{"question": "torn", "answ': "",
    '["a list"]': "row is not an object",
    '"a string"': "row is not an object",
    '{"question": "nul \\u0000", "answer": "4"}': "NUL character (field 'question'",
    '{"question": "half \\ud800", "answer": "4"}': "lone surrogate (field 'question'",
    '{"question": NaN, "answer": "4"}': "",
    "{}": "missing key (field 'question'",
}


def test_fifteen_bad_rows_are_each_named_with_line_and_reason_and_nothing_is_trained(workplace):
    path = workplace.folder / "rows.jsonl"
    lines = [line for bad in BAD for line in (GOOD, bad)]
    path.write_text("\n".join([*lines, *[GOOD] * len(BAD)]) + "\n", encoding="utf-8")
    workplace.rows = path
    workplace.write_recipe()
    said = workplace.train(expect=3)
    assert f"15 of {3 * len(BAD)} rows cannot be used" in said
    for number, reason in enumerate(BAD.values()):
        assert f"rows.jsonl:{2 * number + 2}: {reason}" in said
    assert "nothing was trained" in said
    assert not (workplace.folder / "run" / "metrics.jsonl").exists()
    assert not list((workplace.folder / "run").glob("checkpoint-*"))


def test_bytes_that_are_no_text_are_named_with_their_line(workplace):
    path = workplace.folder / "rows.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"question": "caf\xe9", "answer": "4"}\n' + GOOD.encode() + b"\n")
    workplace.rows = path
    workplace.write_recipe()
    assert "rows.jsonl:2: " in workplace.train(expect=3)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_leaves_no_final_model(workplace):
    """A learning rate that throws the weights out of float32 in the first step; the second one's loss shows it."""
    workplace.write_recipe(optim={"lr": 1e30, "warmup": 0, "weight_decay": 0})
    said = workplace.train(expect=4)
    assert "step 2: loss nan" in said or "step 2: loss inf" in said, said
    assert "stopped before the update" in said
    assert "samples " in said and "optim.lr" in said
    run = workplace.folder / "run"
    assert not list(run.glob("*.safetensors"))
    assert not (run / "summary.json").exists()
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-1"]
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert events[-1]["kind"] == "event" and "NonFiniteError" in events[-1]["text"]
