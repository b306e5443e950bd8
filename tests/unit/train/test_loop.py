import dataclasses

import pytest
import torch
from host_waits import HostWaits
from tiny import LORA, build_training, make_plan, make_samples, run_steps, tiny_llama, values

from whet import allocator
from whet.data.sampler import batch_hash
from whet.errors import NonFiniteError
from whet.kernels import norm, recompute
from whet.optim.schedule import lr_at
from whet.recipe.schema import Optim
from whet.train.callbacks import QuietCallback, Requests
from whet.train.loop import is_due, train, train_step
from whet.train.signals import StopRequest
from whet.types import PARTS_OF_STEP

SAMPLES = make_samples([7, 4, 9, 5, 6, 3])


class Recorder(QuietCallback):
    """Notes what it is told, and asks for what `asks` says after a step."""

    name = "recorder"

    def __init__(self, asks=None):
        self.told, self.records, self.asks = [], [], asks or {}

    def on_start(self, run, step):
        self.told.append(("start", step))

    def after_step(self, record):
        self.records.append(record)
        self.told.append(("step", record.step))
        return self.asks.get(record.step, Requests())

    def on_evaluated(self, record):
        self.told.append(("evaluated", record.step))

    def on_checkpoint_saved(self, step, folder):
        self.told.append(("saved", step, folder.name))

    def on_stop(self, step):
        self.told.append(("stop", step))


def _training(*, total_steps=6, recorder=None, validation=(), optim=None, **plan):
    made = make_plan(len(SAMPLES), micro_batch=1, global_batch=2, total_steps=total_steps)
    return build_training(
        tiny_llama(torch.float32), SAMPLES, dataclasses.replace(made, **plan), adapter=LORA, optim=optim,
        validation=validation, callbacks=[recorder] if recorder else [],
    )  # fmt: skip


def test_a_record_says_what_the_step_did():
    optim = Optim(lr=1e-3, schedule="cosine")
    training = _training(total_steps=4, optim=optim, warmup_steps=1)
    for step, record in enumerate(run_steps(training)):
        samples = [SAMPLES[i] for i in _indices(training, step)]
        assert record.step == step + 1 and record.epoch == (step + 1) / 3
        assert record.num_tokens == sum(s.num_tokens for s in samples)
        assert record.num_taught == sum(s.num_taught for s in samples)
        assert record.batch_hash == batch_hash([s.id for s in samples])
        assert record.lr == lr_at(step, optim, total_steps=4, warmup_steps=1)
        assert record.tokens_per_second == pytest.approx(record.num_tokens / record.seconds)


def test_memory_is_held_against_the_plan_after_every_pass(monkeypatch):
    limits = []
    monkeypatch.setattr(allocator, "trim_near", limits.append)
    training = _training(predicted_memory_bytes=1234)
    run_steps(training, [0, 1])
    assert limits == [1234] * 2 * training.plan.accumulation


class CountedReads(list):
    """Samples that count how often each is read, as from a memory map."""

    def __getitem__(self, index):
        self.read = [*getattr(self, "read", []), int(index)]
        return super().__getitem__(index)


def test_every_sample_of_a_step_is_read_once():
    training = _training()
    samples = CountedReads(SAMPLES)
    run_steps(dataclasses.replace(training, samples=samples), [0])
    assert sorted(samples.read) == sorted(_indices(training, 0))


@pytest.mark.parametrize("first_step", [0, 2])
def test_the_loop_takes_the_rows_of_each_step(first_step):
    """What is read ahead is what a step reads by itself, from wherever the run goes on."""
    recorder = Recorder()
    training = _training(recorder=recorder, total_steps=7)
    train(training, first_step=first_step, stop=StopRequest())
    expected = [batch_hash([SAMPLES[i].id for i in _indices(training, step)]) for step in range(first_step, 7)]
    assert [record.batch_hash for record in recorder.records] == expected
    assert len(set(expected)) > 3


def test_the_parts_of_a_step_are_told_and_never_exceed_it():
    (record,) = run_steps(_training(), [0])
    assert min(record.data_seconds, record.forward_seconds, record.backward_seconds, record.optimizer_seconds) > 0
    assert sum(getattr(record, f"{part}_seconds") for part in PARTS_OF_STEP) <= record.seconds
    assert record.save_seconds == 0


def test_the_groups_keep_their_ratio_at_every_step():
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=2, total_steps=3)
    optim = Optim(lr=1e-3, schedule="linear", warmup=0)
    adapter = dataclasses.replace(LORA, lr_ratio=16.0)
    training = build_training(tiny_llama(torch.float32), SAMPLES, plan, adapter=adapter, optim=optim)
    for step in range(3):
        (record,) = run_steps(training, [step])
        assert [group["lr"] for group in training.optimizer.param_groups] == [record.lr, 16 * record.lr]


def test_the_loop_tells_callbacks_what_happens_in_order():
    recorder = Recorder()
    training = _training(recorder=recorder, validation=make_samples([5]), eval_every=4, save_every=5)
    assert train(training, first_step=1, stop=StopRequest()) == 6
    told = [t for t in recorder.told if t[0] != "saved"]
    assert told == [
        ("start", 1), ("step", 2), ("step", 3), ("step", 4), ("evaluated", 4), ("step", 5), ("step", 6),
        ("evaluated", 6), ("stop", 6),
    ]  # fmt: skip
    # 3: the epoch's end; 4: the best validation loss so far; 5: the cadence; 6: the end of epoch and run
    assert [t[1:] for t in recorder.told if t[0] == "saved"] == [(n, f"checkpoint-{n}") for n in (3, 4, 5, 6)]


@pytest.mark.parametrize("request_name", ["save", "evaluate", "stop"])
def test_what_a_callback_asks_for_happens_after_the_next_step(request_name):
    recorder = Recorder({1: Requests(**{request_name: True})})
    training = _training(recorder=recorder, validation=make_samples([5]))
    done = train(training, first_step=0, stop=StopRequest())
    after_step_2 = recorder.told[recorder.told.index(("step", 2)) + 1 :]
    expected = ("evaluated", 2) if request_name == "evaluate" else ("saved", 2, "checkpoint-2")
    assert after_step_2[0] == expected
    assert done == (2 if request_name == "stop" else 6)


def test_a_signal_ends_the_run_after_the_step_with_everything_saved():
    recorder = Recorder()
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    assert train(_training(recorder=recorder), first_step=0, stop=stop) == 1
    assert recorder.told[-2:] == [("saved", 1, "checkpoint-1"), ("stop", 1)]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_anything_changes(poison):
    training = _training()
    run_steps(training, [0])
    with torch.no_grad():
        training.model.get_input_embeddings().weight[int(SAMPLES[int(_indices(training, 1)[0])].ids[0])] = poison
    before = values(training), {k: v["step"].item() for k, v in training.optimizer.state.items()}
    with pytest.raises(NonFiniteError, match=r"step 2: loss (nan|inf)") as error:
        run_steps(training, [1])
    assert torch.equal(values(training), before[0])
    assert {k: v["step"].item() for k, v in training.optimizer.state.items()} == before[1]
    # tied to the head, the poisoned weight spoils every row; the first one is among them
    assert f"sample-{int(_indices(training, 1)[0])}" in error.value.where


@pytest.mark.parametrize("level", ["none", "full"])
@pytest.mark.parametrize("adapter", [dataclasses.replace(LORA, dropout=0.1), None], ids=["adapter", "all weights"])
def test_a_step_waits_for_the_device_once_and_before_the_update(monkeypatch, adapter, level):
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=2, total_steps=3)
    training = build_training(tiny_llama(torch.float32), SAMPLES, plan, adapter=adapter)
    recompute.install(training.model, level)
    # the way of the norm's gradient on a GPU: on the CPU a number of the host is read
    monkeypatch.setattr(norm, "_KERNEL_DTYPES", frozenset())
    run_steps(training, [0])
    rows, update = training.rows(1), training.optimizer.step
    with HostWaits() as waits:
        monkeypatch.setattr(training.optimizer, "step", lambda: (waits.found.append("update"), update()))
        train_step(training, 1, asked=Requests(), stop=StopRequest(), rows=lambda _: rows)
    assert waits.found == ["tolist", "update"]


def _indices(training, step):
    return training.order.step(training.plan, step).indices


def test_a_non_finite_gradient_stops_although_the_loss_is_finite(monkeypatch):
    training = _training()
    parameter = next(iter(training.trainables.named.values()))
    parameter.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteError, match="gradient norm"):
        run_steps(training, [0])


def test_no_request_and_no_signal_agree_on_nothing():
    _, agreed = train_step(_training(), 0, asked=Requests(), stop=StopRequest())
    assert agreed == Requests()


@pytest.mark.parametrize(
    ("step", "every", "expected"), [(4, 0, False), (6, 0, False), (4, 4, True), (5, 4, False), (6, 4, True)]
)
def test_a_cadence_is_due_at_its_multiples_and_at_the_end(step, every, expected):
    assert is_due(step, every, make_plan(6, micro_batch=1, global_batch=2, total_steps=6)) is expected
