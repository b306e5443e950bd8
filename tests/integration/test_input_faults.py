"""Rows that cannot be used and a loss that is not finite: the run stops before a weight is touched."""

from __future__ import annotations

import json
import shutil

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


@pytest.fixture
def without_weights(workplace):
    """The workplace with a model that has a tokenizer and no weights: a run that gets so far ends with exit code 2."""
    workplace.model = shutil.copytree(workplace.model, workplace.folder / "model")
    (workplace.model / "model.safetensors").unlink()
    workplace.rows = workplace.folder / "rows.jsonl"
    return workplace


def test_rows_are_looked_at_before_any_weight_is_loaded(without_weights):
    without_weights.rows.write_text(f"{GOOD}\n{next(iter(BAD))}\n", encoding="utf-8")
    without_weights.write_recipe()
    assert "rows.jsonl:2: missing key (field 'answer'" in without_weights.train(expect=3)
    without_weights.rows.write_text(f"{GOOD}\n", encoding="utf-8")
    assert "no model.safetensors" in without_weights.train(expect=2)


@pytest.mark.parametrize("lost", ["bad", "too long"])
def test_more_lost_rows_than_max_dropped_stop_the_run_before_any_weight_is_loaded(without_weights, lost):
    line = next(iter(BAD)) if lost == "bad" else GOOD.replace("It is 4.", "four " * 300)
    without_weights.rows.write_text("\n".join([GOOD] * 98 + [line] * 2), encoding="utf-8")
    source = {"train": [{"source": str(without_weights.rows)}], "bad_rows": "drop", "max_length": 200}
    without_weights.write_recipe(data=source)
    said = without_weights.train(expect=3)
    assert "2 of 100 rows (2.0%) would be dropped, data.max_dropped is 1%" in said
    assert "rows.jsonl:99: " in said and "rows.jsonl:100: " in said
    without_weights.write_recipe(data=source | {"max_dropped": "2%"})
    assert "no model.safetensors" in without_weights.train(expect=2)


def test_bad_rows_that_were_left_out_lie_in_the_run_folder_and_show_in_the_report(workplace):
    path = workplace.folder / "rows.jsonl"
    bad = [*list(BAD)[:2], GOOD.replace("4.", "<b>4</b>").replace("}", "")]
    path.write_text("\n".join([GOOD.replace("2 plus", f"{n} plus") for n in range(30)] + bad), encoding="utf-8")
    workplace.rows = path
    workplace.write_recipe(
        data={"bad_rows": "drop", "max_dropped": "10%", "train": [{"source": str(path)}]}, train={"max_steps": 1}
    )
    said = workplace.train()
    assert "33 rows = 30 kept + 3 bad, first " in said
    run = workplace.folder / "run"
    (ledger,) = json.loads((run / "ledger.json").read_text())["sets"]
    assert (ledger["num_rows"], ledger["num_kept"], ledger["counts"]["bad"]) == (33, 30, 3)
    assert [row["origin"].rpartition(":")[2] for row in ledger["rows"]] == ["31", "32", "33"]
    quarantine = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert [row["row"] for row in quarantine] == bad
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "rows.jsonl:31" in page and "missing key (field" in page and "rows.jsonl:33" in page


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
