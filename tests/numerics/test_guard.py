"""Laws of the guard: without a spike it changes nothing; after one, the run is that which never had those rows."""

import dataclasses
import json

import pytest
import torch
from guarded import DROPOUT, SAMPLES, guarded, ids_of, run, same, saver_of, state_of
from planted import plant
from tiny import LORA

from whet.checkpoint.load import open_checkpoint
from whet.errors import NonFiniteError
from whet.recipe.schema import Callback, Guard, Optim
from whet.train.on_spectral import Spectral

# so few steps say little about their spread: only a true spike is to be one
ON = Guard(max_rollbacks=3, spike=100.0, window=10, snapshot_every=3)
KINDS = {
    "lora": {"adapter": DROPOUT},
    "all weights": {"adapter": None},
    "masters": {"adapter": None, "optim": Optim(lr=1e-3, schedule="constant", warmup=0, master="float32")},
    "8 bits": {"adapter": None, "optim": Optim(lr=1e-3, schedule="constant", warmup=0, name="adamw_8bit")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_guard_that_has_nothing_to_do_changes_no_bit(kind):
    off, told_off = guarded(None, **KINDS[kind])
    on, told_on = guarded(ON, **KINDS[kind])
    run(off)
    run(on)
    assert told_on.trajectory == told_off.trajectory and told_on.incidents == []
    assert same(state_of(on), state_of(off))


def without(training, *sample_ids, step):
    """The same run if these samples were never in the steps from 1-based `step` on."""
    entries = [{"sample_id": name, "step": step, "reason": ""} for name in sample_ids]
    training.guard.load_state({"quarantine": entries})
    return training


@pytest.mark.parametrize(
    ("kind", "fault", "step", "place"),
    [
        ("lora", "forward", 4, 0), ("lora", "backward", 7, 3), ("all weights", "backward", 0, 1),
        ("masters", "forward", 7, 2), ("8 bits", "backward", 3, 2),
    ],
)  # fmt: skip
def test_after_a_row_that_is_not_finite_the_run_is_the_one_without_that_row(kind, fault, step, place):
    training, told = guarded(ON, **KINDS[kind])
    bad = ids_of(training, step)[place]
    first = min(s for s in range(12) if bad in ids_of(training, s))
    plant(training.loss_model, bad, module="layers.1.mlp", kind=fault, factor=float("inf"))
    assert run(training) == 12
    expected, expected_told = guarded(ON, **KINDS[kind])
    run(without(expected, bad, step=first + 1))
    assert told.trajectory == expected_told.trajectory
    assert same(state_of(training), state_of(expected))
    assert [i.facts["sample_ids"] for i in told.incidents] == [[bad]]
    assert told.records[first].num_taught == sum(s.num_taught for s in SAMPLES if s.id in ids_of(training, first)) - (
        next(s.num_taught for s in SAMPLES if s.id == bad)
    )
    clean, _ = guarded(ON, **KINDS[kind])
    run(clean)
    assert not same(state_of(training), state_of(clean)), "the row made no difference"


@pytest.mark.parametrize(("kind", "step"), [("lora", 5), ("all weights", 5)])
def test_after_a_spike_of_the_gradient_the_run_is_the_one_without_that_step(kind, step):
    training, told = guarded(ON, **KINDS[kind])
    ids = ids_of(training, step)
    plant(training.loss_model, ids[2], module="norm", kind="backward", factor=1e6)
    run(training)
    expected, expected_told = guarded(ON, **KINDS[kind])
    run(without(expected, *ids, step=step + 1))
    assert told.trajectory == expected_told.trajectory
    assert same(state_of(training), state_of(expected))
    assert [r.step for r in told.records] == [s + 1 for s in range(12) if s != step and not _is_left_out(training, s)]
    (incident,) = told.incidents
    assert "gradient norm" in incident.text and incident.step == step + 1
    assert set(incident.facts["sample_ids"]) == set(ids)


def _is_left_out(training, step):
    return set(ids_of(training, step)) <= set(training.guard.left_out(step))


@pytest.mark.parametrize("fault", ["forward", "spike"])
@pytest.mark.parametrize("stopped_after", [4, 6, 8])
def test_a_run_that_was_interrupted_anywhere_ends_with_the_same_bits(tmp_path, fault, stopped_after):
    """From checkpoints before and after the rollback, those included that the state went back behind."""
    how = {"kind": "forward"} if fault == "forward" else {"kind": "backward", "factor": 1e6}
    whole, told = guarded(ON, folder=tmp_path, save_every=1)
    bad = ids_of(whole, 5)[1]
    plant(whole.loss_model, bad, module="norm", **how)
    run(whole)
    assert len(told.incidents) == 1
    again, told_again = guarded(ON)
    plant(again.loss_model, bad, module="norm", **how)
    first = saver_of(again, tmp_path).restore(open_checkpoint(tmp_path / f"checkpoint-{stopped_after}"))
    run(again, first)
    assert same(state_of(again), state_of(whole))
    assert told_again.trajectory == [line for line in told.trajectory if line[0] > first]
    assert again.guard.state() == whole.guard.state()


def test_spectral_refactoring_is_made_again_with_its_steps():
    settings = Callback(name="spectral", every=2)
    training, _ = guarded(ON, adapter=LORA, callbacks=[Spectral(settings)])
    bad = ids_of(training, 5)[0]
    plant(training.loss_model, bad, module="norm", kind="forward")
    run(training)
    first = min(s for s in range(12) if bad in ids_of(training, s))
    expected, _ = guarded(ON, adapter=LORA, callbacks=[Spectral(settings)])
    run(without(expected, bad, step=first + 1))
    assert same(state_of(training), state_of(expected))


def test_the_run_ends_when_it_has_gone_back_too_often_and_nothing_is_broken(tmp_path):
    training, told = guarded(dataclasses.replace(ON, max_rollbacks=2), folder=tmp_path, save_every=1)
    bad = [ids_of(training, step)[1] for step in (2, 3, 4)]
    plant(training.loss_model, *bad, module="layers.0", kind="forward")
    with pytest.raises(NonFiniteError, match=r"step 5: loss nan(.|\n)*had gone back 2 times already") as caught:
        run(training)
    assert caught.value.where == f"samples {bad[2]}" and caught.value.exit_code == 4
    assert [r.step for r in told.records] == [1, 2, 3, 4]
    assert all(bool(torch.isfinite(t).all()) for t in state_of(training).values())
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["sample_id"], entry["step"]) for entry in listed] == [(bad[0], 3), (bad[1], 4)]
