"""A run that was killed, stopped or sent back equals the run that was left alone, to the last bit.

Compared are SHA-256 sums of the last checkpoint (weights and Adam's moments) and of the final weights, and loss,
learning rate, gradient norm and batch hash of every step. The recipe has dropout, shuffling, two epochs and two
micro-batches per step.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from whet.checkpoint.names import list_steps

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS_PER_EPOCH, TOTAL_STEPS = 4, 8
LIMIT = "longest_matmul_document"


def assert_equal_runs(workplace, uninterrupted, *, run="run"):
    assert [record["step"] for record in workplace.steps(run)] == list(range(1, TOTAL_STEPS + 1))
    assert workplace.trajectory(run) == uninterrupted.trajectory
    assert workplace.hashes(run) == uninterrupted.hashes


def test_the_recipe_draws_dropout_and_changes_the_weights(uninterrupted):
    """Else the equalities below would hold for a run that does nothing."""
    losses = [step[1] for step in uninterrupted.trajectory]
    assert losses[-1] < losses[0] - 0.5
    assert len({step[4] for step in uninterrupted.trajectory}) == TOTAL_STEPS
    assert len(uninterrupted.hashes) == 4


@pytest.mark.fault
def test_killed_again_and_again_the_run_ends_as_if_never_stopped(workplace, uninterrupted):
    """SIGKILL after the first step, within the first epoch, at its end, and before the last step."""
    for step in (1, 2, STEPS_PER_EPOCH, TOTAL_STEPS - 1):
        workplace.kill_at(step)
        assert not (workplace.folder / "run" / "summary.json").exists()
    workplace.train()
    assert_equal_runs(workplace, uninterrupted)
    assert not list((workplace.folder / "run").glob(".*.tmp"))


def test_killed_while_all_weights_train_the_run_ends_as_if_never_stopped(workplace):
    workplace.write_recipe(
        adapter={"method": "none"}, output=str(workplace.folder / "whole"), train={"max_steps": 4, "keep": 1}
    )
    workplace.train()
    workplace.write_recipe(adapter={"method": "none"}, train={"max_steps": 4, "keep": 1})
    workplace.kill_at(2)
    workplace.train()
    assert workplace.trajectory() == workplace.trajectory("whole")
    assert len(workplace.trajectory()) == 4
    assert workplace.hashes() == workplace.hashes("whole")
    assert set(workplace.hashes()) >= {"model.safetensors", "checkpoint-4/optimizer.safetensors"}


@pytest.mark.parametrize("second_moments", ["map", pytest.param("clear", marks=pytest.mark.fault)])
def test_killed_around_spectral_refactorings_the_run_ends_as_if_never_stopped(workplace, uninterrupted, second_moments):
    """Killed right before, right after and between them; each stands in metrics.jsonl once."""
    callback = {"name": "spectral", "every": 2, "mode": "balanced", "second_moments": second_moments}
    workplace.write_recipe(callbacks=[callback], output=str(workplace.folder / "whole"))
    workplace.train()
    workplace.write_recipe(callbacks=[callback])
    for step in (2, 3, 6):
        workplace.kill_at(step)
    workplace.train()
    assert workplace.trajectory() == workplace.trajectory("whole") != uninterrupted.trajectory
    assert workplace.hashes() == workplace.hashes("whole")
    for run in ("run", "whole"):
        events = [line for line in workplace.lines(run) if line["kind"] == "event" and "spectral" in line["text"]]
        assert [event["step"] for event in events] == [2, 4, 6, 8]


@pytest.mark.parametrize("init", ["pissa", pytest.param("lora_ga", marks=pytest.mark.fault)])
def test_killed_while_an_adapter_trains_that_started_inside_the_base_the_run_ends_as_if_never_stopped(workplace, init):
    """Ranks whose scales are no powers of two of each other, so that the adapter file alone would not be exact."""
    adapter = {"init": init, "rslora": True, "ranks": {"v_proj": 3}, "lr_ratio": 4, "also_train": ["norms"]}
    train = {"max_steps": 4, "keep": 1}
    workplace.write_recipe(adapter=adapter, output=str(workplace.folder / "whole"), train=train)
    workplace.train()
    workplace.write_recipe(adapter=adapter, train=train)
    workplace.kill_at(2)
    workplace.train()
    assert len(workplace.trajectory()) == 4
    assert workplace.trajectory() == workplace.trajectory("whole")
    assert workplace.hashes() == workplace.hashes("whole")
    assert set(workplace.hashes()) >= {"adapter_model.safetensors", "checkpoint-4/optimizer.safetensors"}


@pytest.mark.fault
def test_killed_while_a_base_in_float8_is_trained_over_the_run_ends_as_if_never_stopped(workplace):
    """Lean: with whole layers made anew."""
    sections = {"model": {"quantize": "fp8"}, "train": {"max_steps": 4, "keep": 1, "recompute": "full"}}
    workplace.write_recipe(output=str(workplace.folder / "whole"), **sections)
    workplace.train()
    workplace.write_recipe(**sections)
    workplace.kill_at(2)
    workplace.train()
    assert len(workplace.trajectory()) == 4
    assert workplace.trajectory() == workplace.trajectory("whole")
    assert workplace.hashes() == workplace.hashes("whole")
    summary = json.loads((workplace.folder / "run" / "summary.json").read_text())
    assert summary["kernels"]["frozen base"].startswith("float8 emulated")
    assert summary["kernels"]["recompute"].startswith("whole layers")


def test_stopped_by_signals_the_run_saves_says_so_and_ends_as_if_never_stopped(workplace, uninterrupted):
    for number, step in ((signal.SIGINT, 2), (signal.SIGTERM, 4)):
        process = workplace.train_until(lambda step=step: workplace.last_step() >= step)
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 75, said
        assert "the state is saved" in said and "give the same command again" in said
        stopped_after = workplace.last_step()
        assert stopped_after < TOTAL_STEPS
        assert (workplace.folder / "run" / f"checkpoint-{stopped_after}" / "manifest.json").is_file()
    process = workplace.train_until(lambda: workplace.last_step() >= 6)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 75, said
    workplace.train()
    assert_equal_runs(workplace, uninterrupted)


def test_a_signal_before_the_first_step_leaves_with_75_too(workplace):
    process = workplace.train_until(lambda: (workplace.folder / "run" / ".lock").exists())
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 75, said
    assert "Traceback" not in said


def test_sent_back_to_an_older_checkpoint_a_finished_run_ends_the_same(workplace, uninterrupted):
    """By the command of Hugging Face's scripts; then killed, it must not go on from a checkpoint of the first time."""
    run = uninterrupted.copy_to(workplace, is_finished=True)
    program = (str(ROOT / "train.py"), "--config", str(workplace.recipe), "--local_rank", "0")
    resume = ("--resume_from_checkpoint", str(run / "checkpoint-6"))
    process = workplace.wait_until(lambda: workplace.last_step() == 7, workplace.start(*resume, program=program))
    process.kill()
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert "continuing after step 6 of 8" in said
    assert sorted(path.name for path in (run / "superseded-1").iterdir()) == ["checkpoint-7", "checkpoint-8"]
    assert not (run / "summary.json").exists()
    assert "continuing after step" in workplace.train("--resume")
    assert_equal_runs(workplace, uninterrupted)


def test_resume_alone_demands_a_checkpoint(workplace):
    said = workplace.train("--resume", expect=2)
    assert "there is no checkpoint to resume from" in said
    assert workplace.steps() == []


def test_a_checkpoint_of_another_recipe_is_refused(workplace, uninterrupted):
    checkpoint = uninterrupted.run_folder / "checkpoint-6"
    said = workplace.train("--resume", str(checkpoint), "optim.lr=0.001", expect=2)
    assert "optim.lr: 0.005 -> 0.001" in said


@pytest.mark.timeout(300)
def test_two_ranks_stopped_and_continued_compute_what_one_computes(workplace, uninterrupted):
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617", "-m", "whet")
    arguments = ("train", str(workplace.recipe))
    process = workplace.wait_until(lambda: workplace.last_step() >= 3, workplace.start(*arguments, program=torchrun))
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "the state is saved" in said, said
    stopped_after = workplace.last_step()
    assert 3 <= stopped_after < TOTAL_STEPS
    assert (workplace.folder / "run" / f"checkpoint-{stopped_after}" / "manifest.json").is_file()
    process = workplace.start(*arguments, program=torchrun)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count(f"continuing after step {stopped_after}") == 1
    assert [s[0] for s in workplace.trajectory()] == [s[0] for s in uninterrupted.trajectory]
    assert [s[4] for s in workplace.trajectory()] == [s[4] for s in uninterrupted.trajectory]
    # float32 sums in another order, then Adam: first steps to rounding, later ones to its growth
    for ours, theirs in zip(workplace.trajectory(), uninterrupted.trajectory, strict=True):
        assert ours[1] == pytest.approx(theirs[1], rel=1e-6)


def test_continued_where_another_switch_point_of_attention_is_remembered_the_run_keeps_its_own(workplace):
    """The two paths of attention differ in their last bits, so the plan's limit must outlive what the machine says."""
    model = shutil.copytree(workplace.model, workplace.folder / "longer")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}), encoding="utf-8")
    rows = workplace.folder / "long.jsonl"
    answers = (" ".join(str(n * k) for k in range(90, 230)) for n in range(1, 9))
    rows.write_text("".join(json.dumps({"question": "Count.", "answer": a}) + "\n" for a in answers), encoding="utf-8")
    sections = {"model": {"id": str(model)}, "data": {"train": [{"source": str(rows)}]}, "train": {"max_steps": 4}}

    def begin(run):
        workplace.write_recipe(**sections, output=str(workplace.folder / run))

    def limit_of(run):
        return json.loads((workplace.folder / run / "run_plan.json").read_text(encoding="utf-8"))[LIMIT]

    begin("whole")
    workplace.train()
    begin("run")
    process = workplace.train_until(lambda: bool(list_steps(workplace.folder / "run")))
    process.kill()
    process.communicate()
    (memo,) = (workplace.folder / "cache" / "switch_points").glob("*.json")
    remembered = json.loads(memo.read_text(encoding="utf-8"))
    other = 0 if remembered[LIMIT] >= 512 else 2048
    memo.write_text(json.dumps(remembered | {LIMIT: other}), encoding="utf-8")
    workplace.train()
    assert limit_of("run") == limit_of("whole") == remembered[LIMIT]
    assert workplace.hashes() == workplace.hashes("whole")
    begin("other")
    workplace.train()
    assert limit_of("other") == other
    assert workplace.hashes("other") != workplace.hashes("whole")
