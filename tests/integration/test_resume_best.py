"""Answers in training, the best checkpoint and early stopping, in a run that is left alone and in one that is killed.

Validation rows, a set that the model answers while it trains, and a learning rate at which the loss turns around.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from whet.cache import digest_of

pytestmark = pytest.mark.slow

WEIGHTS = "adapter_model.safetensors"
STOPPING = {"epochs": 12, "eval_every": 1, "patience": 3, "final": "best", "keep": 2}


def prepare(workplace: Any, *, output: str = "run", **sections: Any) -> None:
    """Rows of the standard recipe cut in three: 16 to train on, 5 for the loss, 5 to be answered."""
    source = str(workplace.rows)
    standard = {
        "data": {"train": [{"source": source, "split": "train[:16]"}],
              "validation": [{"source": source, "split": "train[16:21]"}]},
        "evaluate": [{"name": "sums", "source": {"source": source, "split": "train[21:]"}, "every": 2, "max_rows": 4,
                   "max_new_tokens": 6, "batch_rows": 2, "metrics": ["answer_accuracy", "answer_length", "loss"]}],
        "optim": {"lr": 0.05, "schedule": "constant", "warmup": 0},
    }  # fmt: skip
    workplace.write_recipe(output=str(workplace.folder / output), **standard | sections)


def evals(workplace: Any, run: str = "run") -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in ("seconds",)}
        for line in workplace.lines(run)
        if line["kind"] == "eval"
    ]


def unmeasured_sentences(found: dict[str, Any]) -> list[str]:
    """What the summary says, but for the sentences on the machine's time and memory."""
    said = [each for each in found["sentences"] if each != found["bottleneck"] and not each.startswith("memory:")]
    assert len(said) == len(found["sentences"]) - 2
    return said


def summary(workplace: Any, run: str = "run") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((workplace.folder / run / "summary.json").read_text(encoding="utf-8"))
    return document


def test_a_run_that_stops_early_ends_with_its_best_weights_and_says_so(workplace):
    prepare(workplace, train=STOPPING)
    said = workplace.train("--no-evaluate")
    run, found, measured = workplace.folder / "run", summary(workplace), evals(workplace)
    losses = {line["step"]: line["loss"] for line in measured}
    best = min(losses, key=losses.get)
    assert found["status"] == "finished" and found["steps"] == max(losses) == best + 3 < found["total_steps"] == 24
    assert (found["best_step"], found["final_step"], found["best_metric"]) == (best, best, "eval/loss")
    assert found["best_value"] == found["best_validation_loss"] == losses[best]
    assert found["stopped_early"]["step"] == best + 3 and found["stopped_early"]["patience"] == 3
    assert f"checkpoint-best is step {best}: eval/loss {losses[best]:.4g} (lower is better)" in said
    assert f"stopped early after step {best + 3}: 3 measurements of eval/loss in a row brought nothing better" in said
    assert f"the final weights are those of step {best}, the best" in said
    assert digest_of(run / WEIGHTS) == digest_of(run / "checkpoint-best" / WEIGHTS)
    assert digest_of(run / WEIGHTS) != digest_of(run / f"checkpoint-{best + 3}" / WEIGHTS)
    again = workplace.train("--no-evaluate")
    assert "was finished before" in again and found["stopped_early"]["sentence"] in again
    assert summary(workplace) == found


def test_answers_in_training_are_one_line_per_step_and_change_no_weight(workplace):
    prepare(workplace, train={"epochs": 2, "eval_every": 3})
    workplace.train("--no-evaluate")
    lines = evals(workplace)
    loss, answers = {"loss", "token_accuracy", "num_taught"}, {"answer_accuracy", "answer_length", "stop_rate"}
    names = {line["step"]: set(line) - {"kind", "step"} for line in lines}
    assert names == {2: answers | {"sums/loss"}, 3: loss, 4: loss | answers | {"sums/loss"}}
    prepare(workplace, output="without", train={"epochs": 2, "eval_every": 3}, evaluate=[])
    workplace.train()
    assert workplace.hashes() == workplace.hashes("without")
    assert workplace.trajectory() == workplace.trajectory("without")


@pytest.mark.fault
def test_killed_again_and_again_an_early_stopping_run_reaches_the_same_end(workplace):
    """The best is by answers in training; killed at each step but the first, the last of them included."""
    train = STOPPING | {"best_metric": "eval/answer_length", "best_direction": "lower", "patience": 2}
    prepare(workplace, output="whole", train=train)
    assert "sums: its rows choose the weights and carry the verdict too" in workplace.train("--no-evaluate")
    whole = summary(workplace, "whole")
    assert whole["stopped_early"] is not None and whole["final_step"] == whole["best_step"] < whole["steps"]
    prepare(workplace, train=train)
    for step in range(2, whole["steps"] + 1):
        workplace.kill_at(step, "--no-evaluate")
    workplace.train("--no-evaluate")
    found = summary(workplace)
    names = ("steps", "best_step", "best_metric", "best_value", "stopped_early", "final_step")
    assert {name: found[name] for name in names} == {name: whole[name] for name in names}
    assert unmeasured_sentences(found) == unmeasured_sentences(whole)
    assert workplace.trajectory() == workplace.trajectory("whole")
    assert evals(workplace) == evals(workplace, "whole")
    assert workplace.hashes() == workplace.hashes("whole")
    state = [
        json.loads((workplace.folder / run / f"checkpoint-{whole['steps']}" / "trainer_state.json").read_text())
        for run in ("run", "whole")
    ]
    assert state[0] == state[1] and state[0]["num_without_improvement"] == 2


def test_all_weights_end_with_the_best_too(workplace):
    train = STOPPING | {"max_steps": 5, "patience": 1}
    prepare(workplace, adapter={"method": "none"}, train=train)
    workplace.train("--no-evaluate")
    found, run = summary(workplace), workplace.folder / "run"
    assert found["final_step"] == found["best_step"] < found["steps"]
    assert digest_of(run / "model.safetensors") == digest_of(run / "checkpoint-best" / "model.safetensors")


def test_the_set_that_decides_what_is_best_may_not_change_under_a_run(workplace):
    train = {"epochs": 2, "best_metric": "eval/answer_accuracy"}
    prepare(workplace, train=train)
    workplace.kill_at(2, "--no-evaluate")
    said = workplace.train("evaluate.0.max_rows=3", "--no-evaluate", expect=2)
    assert "evaluate.sums.max_rows: 4 -> 3" in said
    workplace.train("evaluate.0.role=main", "evaluate.0.batch_rows=4", "--no-evaluate")
    assert summary(workplace)["best_metric"] == "eval/answer_accuracy"


@pytest.mark.timeout(300)
def test_two_ranks_answer_what_one_answers_and_stop_where_one_stops(workplace):
    prepare(workplace, output="alone", train=STOPPING)
    workplace.train("--no-evaluate")
    prepare(workplace, train=STOPPING)
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29643", "-m", "whet")
    process = workplace.start("train", str(workplace.recipe), "--no-evaluate", program=torchrun)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    alone, found = summary(workplace, "alone"), summary(workplace)
    assert (found["steps"], found["final_step"]) == (alone["steps"], alone["final_step"])
    assert found["best_value"] == pytest.approx(alone["best_value"], rel=1e-4)
    for ours, theirs in zip(evals(workplace), evals(workplace, "alone"), strict=True):
        assert ours.keys() == theirs.keys() and ours["step"] == theirs["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
