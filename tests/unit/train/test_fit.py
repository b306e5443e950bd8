import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import LORA, build_training, make_plan, make_samples, run_steps, tiny_llama, values

from whet.estimate.disk import num_checkpoints
from whet.optim.build import optimizer_tensors
from whet.recipe.resolve import resolve
from whet.recipe.schema import Adapter, Batch, Data, Model, Optim, Recipe, Train
from whet.train import fit
from whet.train.fit import StepTime, measure_step, plan_that_fits
from whet.train.lanes import Lanes


def _fitted(budget, step_seconds, save_seconds, *, num_samples=4000, **train):
    """The plan of steps of four samples."""
    source = {"source": "rows.jsonl"}
    recipe = Recipe(
        name="a", output="b", model=Model(id="m"), data=Data(train=[source]), batch=Batch(global_size=4, micro_size=1),
        train=Train(fit_seconds=budget, **train),
    )  # fmt: skip
    whole = resolve(recipe, world_size=1, num_samples=num_samples, micro_batch=1)
    return plan_that_fits(recipe, whole, step_seconds=step_seconds, save_seconds=save_seconds)


@pytest.mark.parametrize(
    ("budget", "seconds", "num_samples", "expected"),
    [(100, 2.0, 4000, 50), (100, 2.0, 80, 20), (1, 2.0, 80, 1), (7, 2.0, 80, 3)],
)
def test_the_steps_that_fit_a_budget(budget, seconds, num_samples, expected):
    plan = _fitted(budget, seconds, 0.0, num_samples=num_samples)
    assert plan.total_steps == expected and plan.save_every == max(1, expected // 10)
    assert plan.measured_seconds_per_step == seconds


def test_checkpoints_count_in_the_budget_and_take_a_tenth_of_it_at_the_most():
    plan = _fitted(60, 4.4, 4.8)
    assert (plan.total_steps, plan.save_every) == (11, 11), "13 steps and 13 checkpoints would take 120 s"
    for budget, step, save in ((60, 4.4, 4.8), (600, 4.4, 4.8), (600, 0.5, 3.0), (3600, 1.0, 0.2), (100, 1.0, 30.0)):
        plan = _fitted(budget, step, save, num_samples=40_000)
        num_saves = num_checkpoints(plan)
        assert plan.total_steps * step + num_saves * save <= budget
        assert (plan.total_steps + 1) * step + (num_saves + 1) * save > budget - step, "no more fit"
        assert (num_saves - 1) * save <= 0.1 * plan.total_steps * step, "but for the last one"


def test_a_recipe_that_says_how_often_to_save_is_obeyed():
    plan = _fitted(100, 1.0, 4.0, save_every=1)
    assert (plan.total_steps, plan.save_every) == (20, 1)


def _training(adapter=LORA, model=None, **optim):
    plan = make_plan(6, micro_batch=1, global_batch=4, total_steps=4)
    optim = Optim(lr=1e-3, schedule="constant", warmup=0, **optim)
    return build_training(
        model or tiny_llama(), make_samples([7, 4, 9, 5, 6, 3]), plan, adapter=adapter, optim=optim
    )  # fmt: skip


def _assert_same_run(measured, other):
    assert all(p.grad is None for p in measured.trainables.with_gradients)
    assert not optimizer_tensors(measured.optimizer, measured.trainables.named)
    assert not measured.laps.take(1.0)["forward_seconds"], "what is measured counts in no step"
    first, second = run_steps(measured), run_steps(other)
    assert [(r.loss, r.grad_norm) for r in first] == [(r.loss, r.grad_norm) for r in second]
    assert (values(measured) == values(other)).all()


@pytest.mark.parametrize(
    ("adapter", "optim"),
    [
        (Adapter(rank=4, alpha=8.0, dropout=0.3), {}),
        (None, {}),
        (None, {"name": "adamw_8bit"}),
        (None, {"master": "float32"}),
    ],
)
def test_measuring_leaves_the_run_as_it_was(adapter, optim):
    dtype = torch.bfloat16 if "master" in optim else torch.float32
    measured, other = (_training(adapter, tiny_llama().to(dtype), **optim) for _ in range(2))
    found = measure_step(measured)
    assert found.passes > 0 and found.update > 0
    _assert_same_run(measured, other)


def test_passes_that_the_run_makes_side_by_side_are_timed_side_by_side():
    plain, measured = _training(), replace(_training(), lanes=Lanes(2, 2))
    threads = set()
    loss_of = measured.loss_model.nll_sum

    def watched(batch):
        threads.add(threading.current_thread().name.partition("_")[0])
        return loss_of(batch)

    measured.loss_model.nll_sum = watched
    assert measure_step(measured).passes > 0
    assert threads == {"lane"}
    _assert_same_run(measured, plain)


@pytest.mark.parametrize(("copied", "update"), [(10**9, 2.0), (None, 4.0)], ids=["all numbers", "half of them"])
def test_the_median_of_three_is_taken_after_a_warm_up_and_an_update_is_scaled_to_all_that_trains(
    monkeypatch, copied, update
):
    run = _training()
    now, passes, updates = 0.0, [], iter([50.0, 2.0, 9.0, 1.0])
    took = iter([9.0, 2.0, 7.0, 5.0])

    def gradients_of_step(_run, taken):
        nonlocal now
        now += next(took)
        passes.append((taken.step, len(taken.batches)))
        return [1.0, 1.0, 0.0], None

    def step():
        nonlocal now
        now += next(updates)

    monkeypatch.setattr(fit, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(fit, "gradients_of_step", gradients_of_step)
    monkeypatch.setattr(fit, "build_optimizer", lambda *_, **__: SimpleNamespace(step=step))
    monkeypatch.setattr(fit, "COPIED_NUMBERS", copied or run.trainables.num_parameters // 2)
    found = measure_step(run)
    assert found == StepTime(passes=5.0, update=pytest.approx(update)) and found.seconds == 5.0 + found.update
    assert passes == [(0, 1), (0, 4), (1, 2), (0, 4)]


def test_an_update_is_timed_on_copies_with_the_gradients_of_the_step(monkeypatch):
    """bfloat16 weights and their masters: each copy stands where the optimizer looks for it."""
    run = _training(None, tiny_llama().to(torch.bfloat16), master="float32")
    monkeypatch.setattr(fit, "COPIED_NUMBERS", 5000)
    before, seen = values(run), {}
    build = fit.build_optimizer

    def watched(masters, optim, *, weights):
        seen.update(masters=masters, weights=weights)
        seen["gradients"] = {name: weight.grad.clone() for name, weight in weights.items()}
        seen["of the run"] = {name: weight.grad.clone() for name, weight in run.trainables.weights.items()}
        return build(masters, optim, weights=weights)

    monkeypatch.setattr(fit, "build_optimizer", watched)
    measure_step(run)
    masters, weights = seen["masters"], seen["weights"]
    assert sum(copy.numel() for copy in masters.values()) == 5000 and set(weights) == set(masters)
    assert {copy.dtype for copy in masters.values()} == {torch.float32}
    assert {copy.dtype for copy in weights.values()} == {torch.bfloat16}
    assert any(gradient.any() for gradient in seen["gradients"].values())
    for name, gradient in seen["gradients"].items():
        assert torch.equal(gradient, seen["of the run"][name].reshape(-1)[: gradient.numel()])
        assert not torch.equal(masters[name], run.trainables.named[name].reshape(-1)[: gradient.numel()]), "updated"
    assert torch.equal(values(run), before)
