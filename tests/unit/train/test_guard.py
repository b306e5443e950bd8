"""What the guard does beside the law: who is told, what is listed, what it does where no row is at fault."""

import json

import pytest
import torch
from guarded import Listener, guarded, ids_of, run, same, state_of
from planted import plant

from whet.errors import NonFiniteError
from whet.recipe.schema import Guard as Settings
from whet.train.incidents import append_incident, read_incidents
from whet.train.loop import train
from whet.train.signals import StopRequest

ON = Settings(max_rollbacks=3, spike=100.0, window=10, snapshot_every=3)


def test_steps_that_are_made_again_are_told_once():
    training, told = guarded(ON)
    plant(training.loss_model, ids_of(training, 5)[0], module="norm", kind="forward")
    run(training)
    assert [record.step for record in told.records] == list(range(1, 13))
    (incident,) = told.incidents
    assert incident.kind == "rollback" and incident.step == 6
    assert incident.facts["state_after_step"] == 3 and incident.facts["num_steps_again"] == 2
    assert "went back to the state after step 3" in incident.text and "rollback 1 of at most 3" in incident.text


def test_off_the_guard_stops_at_what_is_not_finite_and_lets_spikes_pass():
    training, told = guarded(None)
    plant(training.loss_model, ids_of(training, 5)[0], module="norm", kind="backward", factor=1e6)
    assert run(training) == 12
    assert max(record.grad_norm for record in told.records) > 1e3 and told.incidents == []
    training, _ = guarded(None)
    plant(training.loss_model, ids_of(training, 5)[0], module="norm", kind="forward")
    with pytest.raises(NonFiniteError):
        run(training)


def test_what_does_not_come_back_costs_no_sample():
    """A fault of the machine: the state is put back, the step is made again with all of its rows."""
    training, told = guarded(ON)
    plant(training.loss_model, ids_of(training, 4)[2], module="layers.0", kind="forward", times=1)
    run(training)
    clean, told_clean = guarded(ON)
    run(clean)
    assert told.trajectory == told_clean.trajectory and same(state_of(training), state_of(clean))
    assert [i.facts["num_samples"] for i in told.incidents] == [0]
    assert training.guard.left_out(99) == frozenset()


def test_a_step_that_fails_twice_without_a_row_at_fault_loses_all_of_them():
    training, told = guarded(ON)
    step = training.rows(4)
    real = training.guard.check

    def check(run, taken, loss, grad_norm):
        real(run, taken, float("inf") if taken.sample_ids == step.sample_ids else loss, grad_norm)

    training.guard.check = check
    run(training)
    assert [i.facts["num_samples"] for i in told.incidents] == [0, 4]
    assert [r.step for r in told.records][:5] == [1, 2, 3, 4, 6]


def test_weights_that_were_damaged_are_put_back():
    training, told = guarded(ON)
    damaged = []

    class Damage(Listener):
        def after_step(self, record):
            if record.step == 4 and not damaged:
                damaged.append(record.step)
                with torch.no_grad():
                    next(iter(training.trainables.named.values()))[0, 0] = float("nan")
            return super().after_step(record)

    training.callbacks._all = (*training.callbacks._all, Damage())
    run(training)
    clean, told_clean = guarded(ON)
    run(clean)
    assert told.trajectory == told_clean.trajectory and same(state_of(training), state_of(clean))
    assert len(told.incidents) == 1


def test_of_a_broken_state_no_snapshot_is_made():
    """Moments alone are damaged, which no loss shows, right before a snapshot is due."""
    training, told = guarded(ON)
    damaged = []

    class Damage(Listener):
        def after_step(self, record):
            if record.step == 6 and not damaged:
                damaged.append(record.step)
                for state in training.optimizer.state.values():
                    state["exp_avg_sq"].fill_(float("inf"))
            return super().after_step(record)

    training.callbacks._all = (*training.callbacks._all, Damage())
    run(training)
    clean, _ = guarded(ON)
    run(clean)
    assert same(state_of(training), state_of(clean))
    assert "held NaN or infinity" in told.incidents[0].text


def test_a_base_that_is_not_finite_ends_the_run_although_the_guard_is_on():
    training, told = guarded(ON)
    with torch.no_grad():
        training.model.get_input_embeddings().weight[int(training.samples[0].ids[0])] = float("nan")
    with pytest.raises(NonFiniteError, match="the base is at fault"):
        run(training)
    assert told.incidents == []


def test_quarantined_rows_stand_behind_those_that_could_not_be_read(tmp_path):
    unreadable = {"origin": "rows.jsonl:4", "reason": "no answer", "row": "{}"}
    (tmp_path / "quarantine.jsonl").write_text(json.dumps(unreadable) + "\n")
    training, _ = guarded(ON, folder=tmp_path)
    bad = ids_of(training, 3)[1]
    plant(training.loss_model, bad, module="norm", kind="forward")
    run(training)
    first, second = map(json.loads, (tmp_path / "quarantine.jsonl").read_text().splitlines())
    assert first == unreadable
    assert second["sample_id"] == bad and "first in the forward pass: model.norm" in second["reason"]
    # a continued run writes the data's list anew before it starts
    (tmp_path / "quarantine.jsonl").write_text(json.dumps(unreadable) + "\n")
    training.guard.on_start(training, 4)
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 2


def test_a_continued_run_does_not_tell_the_same_incident_again(tmp_path):
    training, told = guarded(ON, folder=tmp_path)
    bad = ids_of(training, 3)[1]
    plant(training.loss_model, bad, module="norm", kind="forward")
    run(training)
    append_incident(tmp_path, told.incidents[0])  # what the monitor of a real run does
    assert read_incidents(tmp_path) == told.incidents
    again, told_again = guarded(ON, folder=tmp_path)
    plant(again.loss_model, bad, module="norm", kind="forward")
    run(again)
    assert told_again.incidents == [] and again.guard.state() == training.guard.state()


def test_a_stop_is_heard_after_the_steps_that_are_made_again():
    training, told = guarded(ON)
    plant(training.loss_model, ids_of(training, 5)[0], module="norm", kind="forward")
    stop = StopRequest()
    real = training.guard._go_back

    def go_back(*arguments):
        stop.signal_name = "SIGTERM"
        return real(*arguments)

    training.guard._go_back = go_back
    assert train(training, first_step=0, stop=stop) == 6
    assert [record.step for record in told.records] == list(range(1, 7))
