"""A continued run makes a step again before it goes on, and says what is not as it was.

The runs are killed right behind a step that follows a checkpoint, or stopped at a checkpoint; then objects are built
anew, as `--resume --verify` does.
"""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import IDENTITY, build_training, make_plan, make_samples, tiny_llama

from whet.checkpoint.load import open_checkpoint
from whet.checkpoint.manifest import write_manifest
from whet.errors import GateError
from whet.kernels.dropout import DropoutState
from whet.parallel.env import Env
from whet.recipe.schema import Adapter, Optim
from whet.train import witness
from whet.train.callbacks import QuietCallback, Requests
from whet.train.loop import train
from whet.train.saves import Saves
from whet.train.signals import StopRequest
from whet.train.state import Saver
from whet.train.step_bits import bits_of_state
from whet.train.verify import verify_resume
from whet.train.witness import Witness, read_testimony

SAMPLES = make_samples(3 * [17, 9, 30, 5, 12, 8, 21, 14, 7, 11, 19, 6])
ADAPTER = Adapter(rank=4, alpha=8.0, dropout=0.3)


class Killed(Exception):  # noqa: N818 - no error, an end
    """Instead of SIGKILL."""


class End(QuietCallback):
    """Ends the run behind `step`: at once, or as a signal does."""

    name = "end"

    def __init__(self, step, stop):
        self.step, self.stop = step, stop

    def after_step(self, record):
        if record.step == self.step:
            if self.stop is None:
                raise Killed
            self.stop.signal_name = "SIGTERM"
        return Requests()


def objects(folder, *, samples=SAMPLES, seed=0, keep=2, callbacks=()):
    plan = replace(make_plan(36, micro_batch=2, global_batch=4, total_steps=9), save_every=2)
    optim = Optim(lr=1e-2, schedule="cosine", warmup=2)
    run = build_training(
        tiny_llama(torch.float32), samples, plan, adapter=ADAPTER, optim=optim, seed=seed,
        callbacks=[Witness(folder, Env()), *callbacks],
    )  # fmt: skip
    saver = Saver(
        run_folder=folder, plan=plan, keep=keep, trainables=run.trainables, optimizer=run.optimizer,
        callbacks=run.callbacks, best=run.best, identity=IDENTITY, data_fingerprint="", recipe_yaml="", files={},
    )  # fmt: skip
    return replace(run, saves=Saves(saver.hold, run_folder=folder, env=Env(), callbacks=run.callbacks)), saver


def make_run(folder, *, killed_behind=None, stopped_behind=None, keep=2):
    stop = StopRequest()
    end = End(killed_behind or stopped_behind, None if killed_behind else stop)
    run, _ = objects(folder, keep=keep, callbacks=[end])
    if killed_behind:
        with pytest.raises(Killed):
            train(run, first_step=0, stop=stop)
    else:
        train(run, first_step=0, stop=stop)


def verify(folder, *, step=4, prepare=lambda run: None, **changes):
    """What `--resume --verify` says; the state is then that of the checkpoint."""
    run, saver = objects(folder, **changes)
    checkpoint = open_checkpoint(folder / f"checkpoint-{step}")
    saver.restore(checkpoint)
    before = bits_of_state(run)
    prepare(run)
    said = []
    verify_resume(run, saver, checkpoint, [], said.append)
    assert bits_of_state(run) == before
    return said


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Checkpoints 2 and 4, killed behind step 5."""
    folder = tmp_path_factory.mktemp("killed")
    make_run(folder, killed_behind=5)
    return folder


def copied(killed, tmp_path):
    import shutil

    return shutil.copytree(killed, tmp_path / "run")


def test_the_step_after_each_checkpoint_is_witnessed(killed):
    testimony = read_testimony(killed)
    assert sorted(testimony.steps) == [3, 5]
    assert all(each.rows and each.weights and each.moments for each in testimony.steps.values())
    assert testimony.facts_of(3)["threads"] == 1 and testimony.facts_of(3)["torch"].startswith("2.")


def test_an_honest_run_is_verified_by_one_step(killed):
    (said,) = verify(killed)
    assert said == (
        "verified: step 5 made again from checkpoint-4 gave the same batch, rows, loss, gradient norm, weights, "
        "moments, bit for bit"
    )


def test_a_run_that_stopped_at_its_checkpoint_is_verified_from_the_one_before(tmp_path):
    make_run(tmp_path, stopped_behind=5)  # the step after it is made, saved and the last
    (said,) = verify(tmp_path, step=6)
    assert "steps 5 to 6 made again from checkpoint-4" in said and "weights and moments of checkpoint-6" in said


def test_with_nothing_to_compare_the_run_goes_on_and_says_so(tmp_path):
    make_run(tmp_path, stopped_behind=5, keep=1)
    (said,) = verify(tmp_path, step=6, keep=1)
    assert "nothing to compare with" in said


def other_dropout(run):
    other = DropoutState(1)
    run.dropout._seed = other._seed


def flip(run_folder, file, ending, bit):
    """One bit of one number of checkpoint-4, whose manifest is made to fit."""
    path = run_folder / "checkpoint-4" / file
    tensors = load_file(path)
    name = next(each for each in sorted(tensors) if each.endswith(ending))
    tensors[name].view(torch.int32).view(-1)[3] ^= 1 << bit
    save_file(tensors, path)
    (run_folder / "checkpoint-4" / "manifest.json").unlink()
    write_manifest(run_folder / "checkpoint-4", step=4)


def test_another_dropout_seed_is_a_difference_in_the_loss(killed):
    with pytest.raises(GateError) as refused:
        verify(killed, prepare=other_dropout)
    assert refused.value.exit_code == 8
    assert "made again from checkpoint-4, step 5 differs in the loss: " in str(refused.value)
    assert "machine, versions and threads are as they were" in str(refused.value)


def test_other_tokens_under_the_same_ids_are_a_difference_in_the_rows(killed):
    changed = [replace(each, ids=(each.ids + 1) % 400 + 3) for each in SAMPLES]
    with pytest.raises(GateError, match="step 5 differs in the rows"):
        verify(killed, samples=changed)


def test_another_order_is_a_difference_in_the_batch(killed):
    with pytest.raises(GateError, match="step 5 differs in the batch"):
        verify(killed, seed=1)


@pytest.mark.parametrize(
    ("file", "ending", "bit", "named"),
    [
        ("adapter_model.safetensors", "lora_B.weight", 22, "the loss"),
        ("optimizer.safetensors", "exp_avg", 22, "the weights after the update"),
        # too small for the weights to show it: the moments themselves do
        ("optimizer.safetensors", "exp_avg_sq", 0, "the (weights|optimizer's moments) after the update"),
    ],
)
def test_a_flipped_bit_under_a_repaired_manifest_is_found(killed, tmp_path, file, ending, bit, named):
    folder = copied(killed, tmp_path)
    flip(folder, file, ending, bit)
    with pytest.raises(GateError, match=f"step 5 differs in {named}"):
        verify(folder)


def test_what_is_not_as_it_was_on_the_machine_is_named(killed, tmp_path, monkeypatch):
    folder = copied(killed, tmp_path)
    lines = [json.loads(line) for line in (folder / witness.FILE_NAME).read_text().splitlines() if line]
    lines[0]["facts"] |= {"threads": 2, "torch": "2.9.1"}
    lines[-1]["grad_norm"] *= 1 + 1e-12
    (folder / witness.FILE_NAME).write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(GateError) as refused:
        verify(folder)
    text = str(refused.value)
    assert "step 5 differs in the gradient norm" in text
    assert "threads: 2 then, 1 now" in text and "torch: 2.9.1 then" in text


def test_a_damaged_line_costs_the_proof_not_the_run(killed, tmp_path):
    folder = copied(killed, tmp_path)
    path = folder / witness.FILE_NAME
    path.write_bytes(path.read_bytes()[:-40])
    (said,) = verify(folder)
    assert "steps 3 to 4 made again from checkpoint-2" in said


def test_what_a_later_session_made_anew_is_no_testimony(tmp_path):
    path = tmp_path / witness.FILE_NAME
    step = {"kind": "step", "batch_hash": "a", "lr": 0.1, "loss": 1.0, "grad_norm": 1.0}
    lines = [{"kind": "session", "step": 0, "facts": {"threads": 1}}, step | {"step": 3}, step | {"step": 5}]
    lines += [{"kind": "session", "step": 4, "facts": {"threads": 2}}]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    testimony = read_testimony(tmp_path)
    assert sorted(testimony.steps) == [3]
    assert (testimony.facts_of(4)["threads"], testimony.facts_of(5)["threads"]) == (1, 2)


def test_a_disk_that_takes_no_testimony_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / witness.FILE_NAME).mkdir()
    make_run(tmp_path, stopped_behind=2)
    assert "--verify will know less" in caplog.text
