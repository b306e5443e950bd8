"""What a reproduction makes of a step that differs; whole reproductions are in tests/faults/test_made_again.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from whet.errors import GateError, InterruptedRunError, StorageError
from whet.parallel.env import Env
from whet.train import reproduce
from whet.train.machine_facts import differences, facts_of
from whet.train.reproduce import Comparison, read_recorded
from whet.train.step_bits import StepBits
from whet.train.witness import KnownSteps

HERE = {"threads": 1, "cpu": "one"}


def step(number, *, loss=2.0, batch="a"):
    return StepBits(step=number, batch_hash=batch, lr=0.1, loss=loss, grad_norm=1.0)


def record(number, *, loss=2.0, batch="a"):
    return SimpleNamespace(step=number, batch_hash=batch, lr=0.1, loss=loss, grad_norm=1.0)


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """Of a run of three steps; `facts`: what its machine was."""
    monkeypatch.setattr(reproduce, "facts_now", lambda run: HERE)
    monkeypatch.setattr(reproduce, "_refuse_other_facts", lambda *_, **__: None)

    def make(facts=HERE, *, last_step=None, said=lambda _: None):
        recorded = reproduce.RecordedRun(
            folder=tmp_path, recipe=None, plan={"total_steps": 3}, environment={}, data={}, model={}, inputs={},
            testimony=KnownSteps(steps={n: step(n) for n in (1, 2, 3)}, sessions=((0, facts),)), is_finished=True,
        )  # fmt: skip
        made = Comparison(recorded, Path("new"), last_step=last_step, say=said)
        made.on_start(SimpleNamespace(env=SimpleNamespace(is_main=True)), 0)
        return made

    return make


def test_on_the_same_machine_the_last_bit_decides(comparison):
    made = comparison()
    made.after_step(record(1))
    with pytest.raises(GateError, match="not reproduced: step 2 differs in the loss"):
        made.after_step(record(2, loss=2.0000000000000004))


def test_on_another_machine_losses_may_differ_by_rounding_and_the_sentence_says_by_how_much(comparison):
    said = []
    made = comparison({"threads": 2, "cpu": "one"}, said=said.append)
    assert "threads: 2 then, 1 now" in said[0]
    for number, loss in ((1, 2.0), (2, 2.000002), (3, 2.000001)):
        made.after_step(record(number, loss=loss))
    assert "all losses agree within 1.0e-06" in made.sentence() and "step 2 differs in the loss" in made.sentence()
    assert made.found(*made.compare_final()) == reproduce.Reproduced(
        num_steps=3, is_bit_for_bit=False, largest_difference=pytest.approx(1e-6), are_weights_same=None,
        sentences=(made.sentence(), "the final weights were not compared: after rounding their files cannot be equal"),
    )  # fmt: skip


def test_on_another_machine_another_batch_or_a_far_loss_is_no_rounding(comparison):
    other = {"threads": 2}
    with pytest.raises(GateError, match="differs in the batch"):
        comparison(other).after_step(record(1, batch="b"))
    with pytest.raises(GateError, match="what is not as it was: threads"):
        comparison(other).after_step(record(1, loss=2.1))


def test_after_the_last_step_that_is_asked_for_it_ends(comparison):
    made = comparison(last_step=2)
    made.after_step(record(1))
    with pytest.raises(InterruptedRunError):
        made.after_step(record(2))
    assert made.sentence() == "reproduced: 2 of 3 steps gave the same batches, losses and gradient norms, bit for bit"


def test_a_run_that_goes_on_behind_the_recorded_end_is_told(comparison):
    with pytest.raises(GateError, match="ended after step 3, and this one goes on"):
        comparison().after_step(record(4))


def test_a_folder_without_steps_is_told(tmp_path):
    with pytest.raises(StorageError, match="holds no step to compare with"):
        read_recorded(tmp_path)


def test_only_what_bits_depend_on_is_a_fact():
    facts = facts_of({"torch": "2.13", "threads": 1, "cores": 64}, {"micro_batch": 4, "save_every": 5})
    assert facts == {"torch": "2.13", "threads": 1, "micro_batch": 4}
    assert differences(facts, facts | {"threads": 2, "new": 1}) == ["threads: 1 then, 2 now"]


def test_of_several_ranks_only_the_one_that_writes_the_final_files_compares_them(tmp_path, monkeypatch):
    """The others come back from training while the files are still being written."""
    (tmp_path / "manifest.json").write_text('{"sha256": {"adapter_model.safetensors": "1f0c"}}', encoding="utf-8")
    recorded = reproduce.RecordedRun(
        folder=tmp_path, recipe=None, plan={"world_size": 2, "total_steps": 1}, environment={}, data={}, model={},
        inputs={}, testimony=KnownSteps(steps={1: step(1)}, sessions=((0, HERE),)), is_finished=True,
    )  # fmt: skip
    for name in ("_refuse_changed_files", "_recipe_again", "run_recipe", "_bring_cuts"):
        monkeypatch.setattr(reproduce, name, lambda *_: None)
    monkeypatch.setattr(reproduce, "read_recorded", lambda _: recorded)

    def made_by(rank):
        monkeypatch.setattr(reproduce, "read_env", lambda: Env(rank=rank, world_size=2))
        return reproduce.reproduce(tmp_path, tmp_path / "new", num_steps=None, say=print)

    assert len(made_by(1).sentences) == 1
    with pytest.raises(GateError, match="has another SHA-256"):
        made_by(0)
