"""What summary.json says of a run: totals over all its sessions, and where the time went."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch
from tiny import LORA, build_training, make_plan, make_samples, tiny_llama

from whet.train.finish import write_summary
from whet.train.laps import PARTS

SAMPLES = make_samples([7, 4, 9, 5])
OLD = {"kind": "step", "step": 1, "loss": 2.5, "seconds": 2.0, "num_tokens": 100}
"""as versions before there was a split wrote it"""
NEW = {
    "kind": "step", "step": 2, "loss": 2.0, "seconds": 8.0, "num_tokens": 300, "data_seconds": 4.0,
    "forward_seconds": 1.0, "backward_seconds": 2.0, "optimizer_seconds": 0.25, "communication_seconds": 0.25,
    "save_seconds": 0.25,
}  # fmt: skip
EVALUATION = {"kind": "eval", "step": 2, "loss": 2.0, "seconds": 1.0}
EVENT = {"kind": "event", "step": 2, "text": "resumed"}


@pytest.fixture
def training():
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=2)
    made = build_training(tiny_llama(torch.float32), SAMPLES, plan, adapter=LORA)
    return dataclasses.replace(made, startup_seconds={"imports": 2.0, "first step": 1.0})


def summary_of(folder, training, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_summary(folder, training, status="finished", steps=2, final_step=2)
    return json.loads((folder / "summary.json").read_text())


def test_the_parts_of_all_lines_are_added_up_and_the_worst_one_is_named(tmp_path, training):
    summary = summary_of(tmp_path, training, [OLD, EVENT, NEW, EVALUATION])
    assert (summary["seconds"], summary["tokens"], summary["tokens_per_second"]) == (10.0, 400, 40.0)
    assert summary["last_train_loss"] == 2.0
    assert summary["seconds_by_part"] == {
        "data": 4.0, "forward": 1.0, "backward": 2.0, "optimizer": 0.25, "communication": 0.25, "save": 0.25,
        "other": 2.25, "evaluation": 1.0,
    }  # fmt: skip
    assert summary["bottleneck"].startswith("36% of the time waits for rows: ")
    assert summary["sentences"][-1] == summary["bottleneck"]
    assert summary["startup_seconds"] == {"imports": 2.0, "first step": 1.0}


def test_the_wait_for_the_last_checkpoint_is_in_no_line_and_counts(tmp_path, training):
    with training.laps("save"):
        time.sleep(0.05)
    parts = summary_of(tmp_path, training, [NEW])["seconds_by_part"]
    assert 0.3 <= parts["save"] < 0.5
    assert sum(parts.values()) == pytest.approx(8.0 + parts["save"] - 0.25)
    assert set(parts) == {*PARTS, "other", "evaluation"}


def test_a_run_without_a_step_has_a_summary_too(tmp_path, training):
    summary = summary_of(tmp_path, training, [])
    assert summary["tokens_per_second"] is None and summary["last_train_loss"] is None
    assert summary["bottleneck"] == "" and summary["sentences"] == []
