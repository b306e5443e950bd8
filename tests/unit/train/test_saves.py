"""Checkpoints beside training: who waits for whom, what callbacks hear and when, and where an error comes out."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path

import pytest
import torch
from tiny import IDENTITY, LORA, build_training, make_plan, make_samples, run_steps, tiny_llama

from whet.checkpoint import save as save_module
from whet.checkpoint.load import open_checkpoint
from whet.checkpoint.names import list_steps
from whet.errors import NonFiniteError, StorageError
from whet.parallel.env import Env
from whet.train import state
from whet.train.callbacks import Callbacks, QuietCallback
from whet.train.loop import train
from whet.train.saves import Saves
from whet.train.signals import StopRequest
from whet.train.state import Saver
from whet.types import PARTS_OF_STEP

pytestmark = pytest.mark.slow

SAMPLES = make_samples([7, 4, 9, 5, 6, 3] * 10)
"""30 steps of two in an epoch, so that no epoch ends in between"""
SLOW_SECONDS = 0.4


class Listener(QuietCallback):
    name = "listener"

    def __init__(self, folder=None):
        self.records, self.saved, self.events, self.folder = [], [], [], folder

    def after_step(self, record):
        self.records.append(record)
        return super().after_step(record)

    def on_event(self, step, text):
        self.events.append((step, text))

    def on_checkpoint_saved(self, step, folder):
        thread = threading.current_thread() is threading.main_thread()
        self.saved.append((step, self.records[-1].step if self.records else 0, thread))
        if self.folder is not None:
            assert open_checkpoint(folder).step == step, "told before it was whole"


def training_with(hold, *, listener, total_steps=6, folder=None, **plan):
    """`hold` writes nothing to a disk; with `folder` the saver of real runs takes its place."""
    made = make_plan(len(SAMPLES), micro_batch=1, global_batch=2, total_steps=total_steps)
    training = build_training(
        tiny_llama(torch.float32), SAMPLES, dataclasses.replace(made, **plan), adapter=LORA, callbacks=[listener]
    )
    hold = saver_of(training, folder).hold if folder else hold
    saves = Saves(hold, run_folder=folder or Path("run"), env=Env(), callbacks=training.callbacks)
    return dataclasses.replace(training, saves=saves)


def saver_of(training, folder):
    return Saver(
        run_folder=folder, plan=training.plan, keep=9, trainables=training.trainables, optimizer=training.optimizer,
        callbacks=training.callbacks, best=training.best, identity=IDENTITY, data_fingerprint="", recipe_yaml="",
        files={},
    )  # fmt: skip


def slow(_step):
    return lambda: time.sleep(SLOW_SECONDS)


def test_a_slow_disk_does_not_hold_the_next_step_up():
    """Steps 4 and 6 are saved: step 5 is made beside the first write, and what comes after it waits."""
    listener = Listener()
    training = training_with(slow, listener=listener, save_every=4)
    started = time.monotonic()
    train(training, first_step=0, stop=StopRequest())
    assert [r.save_seconds < SLOW_SECONDS / 4 for r in listener.records] == [True] * 5 + [False]
    assert listener.records[4].step == 5
    assert time.monotonic() - started > 2 * SLOW_SECONDS
    assert [step for step, _, _ in listener.saved] == [4, 6]


def test_the_next_checkpoint_waits_for_the_one_before_and_the_wait_is_told_in_the_next_line():
    listener = Listener()
    training = training_with(slow, listener=listener, total_steps=4, save_every=1)
    train(training, first_step=0, stop=StopRequest())
    held = [record.save_seconds for record in listener.records]
    assert held[0] == 0 and held[1] < SLOW_SECONDS / 4
    assert all(SLOW_SECONDS / 2 < seconds < 2 * SLOW_SECONDS for seconds in held[2:])
    for record in listener.records:
        assert sum(getattr(record, f"{part}_seconds") for part in PARTS_OF_STEP) <= record.seconds
        assert record.tokens_per_second == pytest.approx(record.num_tokens / record.seconds)


def test_callbacks_hear_of_a_checkpoint_when_it_is_whole_in_order_from_the_loops_thread(tmp_path, monkeypatch):
    real = save_module.write_manifest

    def late(folder, *, step):
        time.sleep(0.05)
        return real(folder, step=step)

    monkeypatch.setattr(save_module, "write_manifest", late)
    listener = Listener(tmp_path)
    train(training_with(None, listener=listener, folder=tmp_path, save_every=2), first_step=0, stop=StopRequest())
    assert [step for step, _, _ in listener.saved] == [2, 4, 6]
    assert all(heard_after >= step and in_main for step, heard_after, in_main in listener.saved)
    assert list_steps(tmp_path) == [6, 4, 2]


def test_callbacks_hear_of_it_before_the_next_checkpoint_is_due():
    listener = Listener()
    quick = training_with(lambda step: lambda: None, listener=listener, total_steps=30, save_every=10)
    train(quick, first_step=0, stop=StopRequest())
    assert [step for step, _, _ in listener.saved] == [10, 20, 30]
    assert listener.saved[0][1] < 20


def failing(step):
    def write():
        raise StorageError("no space left while saving", where=f"run/checkpoint-{step}")

    return write


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_next_step():
    listener = Listener()
    training = training_with(failing, listener=listener, total_steps=50, save_every=2)
    with pytest.raises(StorageError, match="run/checkpoint-2: no space left") as caught:
        train(training, first_step=0, stop=StopRequest())
    assert caught.value.exit_code == 5
    assert listener.records[-1].step <= 4 and listener.saved == []


def test_the_last_checkpoint_is_waited_for_and_its_error_is_not_lost():
    def slowly_failing(step):
        def write():
            time.sleep(0.1)
            failing(step)()

        return write

    listener = Listener()
    with pytest.raises(StorageError, match="checkpoint-6"):
        train(training_with(slowly_failing, listener=listener, save_every=6), first_step=0, stop=StopRequest())
    assert listener.saved == []


def test_an_error_of_training_comes_first_and_the_lost_checkpoint_is_told_beside_it():
    def broken(step):
        with torch.no_grad():  # of the model: the step after the save is not finite
            training.model.get_input_embeddings().weight.fill_(float("nan"))
        return lambda: (time.sleep(0.05), failing(step)())

    listener = Listener()
    training = training_with(broken, listener=listener, save_every=2)
    with pytest.raises((NonFiniteError, StorageError)) as caught:
        train(training, first_step=0, stop=StopRequest())
    assert isinstance(caught.value, NonFiniteError)
    assert [(step, "no space left" in text) for step, text in listener.events] == [(2, True)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_checkpoint_is_being_written_when_the_loop_is_left(error):
    ended = threading.Event()
    saves = Saves(
        lambda step: lambda: (time.sleep(0.1), ended.set()),
        run_folder=Path("run"),
        env=Env(),
        callbacks=Callbacks([]),
    )
    with pytest.raises(error), saves:
        saves.begin(1)
        raise error
    assert ended.is_set()


def test_a_checkpoint_holds_the_state_of_its_step_although_training_went_on(tmp_path):
    listener = Listener()
    training = training_with(None, listener=listener, folder=tmp_path)
    run_steps(training, [0, 1])
    write = saver_of(training, tmp_path).hold(2)
    now = {name: tensor.detach().clone() for name, tensor in training.trainables.tensors().items()}
    moments = {id(p): s["exp_avg"].clone() for p, s in training.optimizer.state.items()}
    torch.rand(3)
    random_state = torch.get_rng_state()
    run_steps(training, [2])
    write()
    checkpoint = open_checkpoint(tmp_path / "checkpoint-2")
    saved = checkpoint.tensors(training.trainables.weights_file)
    assert all(torch.equal(saved[name], now[name]) for name in now)
    assert any(not torch.equal(saved[name], t) for name, t in training.trainables.tensors().items())
    optimizer = checkpoint.tensors("optimizer.safetensors")
    for name, parameter in training.trainables.named.items():
        assert torch.equal(optimizer[f"{name}.exp_avg"], moments[id(parameter)])
        assert float(optimizer[f"{name}.step"]) == 2.0
    assert not torch.equal(checkpoint.tensors("random_state.safetensors")["torch_cpu"], random_state)
    assert checkpoint.document("trainer_state.json")["global_step"] == 2


def test_what_callbacks_gave_is_kept_as_it_was(tmp_path):
    class Counter(QuietCallback):
        name = "counter"
        kept = {"seen": [1]}  # noqa: RUF012

        def state(self):
            return self.kept

    counter = Counter()
    training = training_with(None, listener=counter, folder=tmp_path)
    write = saver_of(training, tmp_path).hold(2)
    counter.kept["seen"].append(2)
    training.best.step = 2
    write()
    state = open_checkpoint(tmp_path / "checkpoint-2").document("trainer_state.json")
    assert state["callbacks"]["counter"] == {"seen": [1]}
    assert not (tmp_path / "checkpoint-best").exists()


def test_what_does_not_fit_into_memory_twice_is_written_at_once(tmp_path, monkeypatch):
    training = training_with(None, listener=Listener(), folder=tmp_path)
    run_steps(training, [0])
    num_bytes = sum(3 * t.nbytes for t in training.trainables.tensors().values())
    for step, free, is_written in ((1, 3 * num_bytes, False), (2, num_bytes, True), (3, None, False)):
        monkeypatch.setattr(state, "free_memory_bytes", lambda free=free: free)
        write = saver_of(training, tmp_path).hold(step)
        assert (step in list_steps(tmp_path)) is is_written
        write()
        assert open_checkpoint(tmp_path / f"checkpoint-{step}").step == step


def parts(events, *, fails=False):
    """What every rank writes, and what rank 0 makes of it."""

    def hold(step):
        def write():
            time.sleep(0.05)
            events.append(f"part of {step}")
            return json.dumps({"error": "no space left", "mend": "free some"} if fails else {"files": step})

        return write

    def join(step, reports):
        time.sleep(0.05)
        events.append(f"joined {step} of {[json.loads(report)['files'] for report in reports]}")

    return hold, join


def training_of_parts(events, listener, *, fails=False, **plan):
    hold, join = parts(events, fails=fails)
    training = training_with(None, listener=listener, **plan)
    saves = Saves(
        hold, run_folder=Path("run"), env=Env(), callbacks=training.callbacks, is_spread=True, join=join
    )  # fmt: skip
    return dataclasses.replace(training, saves=saves)


def test_parts_are_joined_when_all_are_written_and_only_then_are_callbacks_told():
    events = []

    class Told(Listener):
        def on_checkpoint_saved(self, step, folder):
            super().on_checkpoint_saved(step, folder)
            events.append(f"told {step}")

    listener = Told()
    train(training_of_parts(events, listener, total_steps=28, save_every=14), first_step=0, stop=StopRequest())
    assert events == [
        text for step in (14, 28) for text in (f"part of {step}", f"joined {step} of [{step}]", f"told {step}")
    ]
    assert listener.saved[0][1] < 28, "while training goes on"
    assert all(in_main for _, _, in_main in listener.saved)


def test_a_part_that_could_not_be_written_ends_the_run_with_the_rank_and_its_reason():
    events = []
    training = training_of_parts(events, Listener(), fails=True, total_steps=60, save_every=2)
    with pytest.raises(StorageError, match="checkpoint-2: rank 0 could not write its part: no space left"):
        train(training, first_step=0, stop=StopRequest())
    assert not any("joined" in event for event in events)


def test_parts_are_given_up_by_an_error_and_that_is_told():
    events, listener = [], Listener()
    hold, join = parts(events)
    saves = Saves(hold, run_folder=Path("run"), env=Env(), callbacks=Callbacks([listener]), is_spread=True, join=join)
    with pytest.raises(RuntimeError), saves:
        saves.begin(3)
        raise RuntimeError
    assert events == ["part of 3"] and listener.saved == []
    assert listener.events == [(3, "checkpoint-3 was given up: not all had written")]


@pytest.mark.parametrize("save_every", [1, 2])
def test_no_step_is_told_of_that_is_more_than_save_every_after_the_newest_whole_checkpoint(save_every):
    """So a crash costs `save_every` steps at most, however slow the disk is."""
    newest_whole = []

    class Watcher(Listener):
        def after_step(self, record):
            newest_whole.append((record.step, max((step for step, _, _ in self.saved), default=0)))
            return super().after_step(record)

    training = training_with(slow, listener=Watcher(), save_every=save_every)
    train(training, first_step=0, stop=StopRequest())
    assert len(newest_whole) == 6
    assert all(step - whole <= save_every for step, whole in newest_whole), newest_whole


def test_a_continued_run_does_not_wait_for_what_it_cannot_lose():
    """Continued after step 3, saved at 4 and 6: a crash after step 5 would cost two steps, less than four."""
    listener = Listener()
    training = training_with(slow, listener=listener, save_every=4)
    train(training, first_step=3, stop=StopRequest())
    assert [r.save_seconds < SLOW_SECONDS / 4 for r in listener.records] == [True] * 3
