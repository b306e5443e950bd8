import threading
from dataclasses import replace

import pytest
from tiny import LORA, build_training, make_plan, make_samples, run_steps, tiny_llama, values

from whet.recipe.schema import Adapter
from whet.train import fit
from whet.train.fit import measure_step_seconds, steps_that_fit
from whet.train.lanes import Lanes


@pytest.mark.parametrize(
    ("budget", "seconds", "at_most", "expected"),
    [(100, 2.0, 1000, 50), (100, 2.0, 20, 20), (1, 2.0, 20, 1), (7, 2.0, 20, 3)],
)
def test_the_steps_that_fit_a_budget(budget, seconds, at_most, expected):
    assert steps_that_fit(budget, seconds, at_most=at_most) == expected


def _training(adapter=LORA):
    plan = make_plan(6, micro_batch=1, global_batch=4, total_steps=4)
    return build_training(tiny_llama(), make_samples([7, 4, 9, 5, 6, 3]), plan, adapter=adapter)


def test_measuring_leaves_the_run_as_it_was():
    adapter = Adapter(rank=4, alpha=8.0, dropout=0.3)
    measured, other = _training(adapter), _training(adapter)
    assert measure_step_seconds(measured) > 0
    assert all(p.grad is None for p in measured.trainables.named.values())
    first, second = run_steps(measured), run_steps(other)
    assert [(r.loss, r.grad_norm) for r in first] == [(r.loss, r.grad_norm) for r in second]
    assert (values(measured) == values(other)).all()


def test_passes_that_the_run_makes_side_by_side_are_timed_side_by_side():
    plain, measured = _training(), replace(_training(), lanes=Lanes(2, 2))
    threads = set()
    loss_of = measured.loss_model.nll_sum

    def watched(batch):
        threads.add(threading.current_thread().name.partition("_")[0])
        return loss_of(batch)

    measured.loss_model.nll_sum = watched
    assert measure_step_seconds(measured) > 0
    assert threads == {"MainThread", "lane"}, "one pass alone to warm up, then as in training"
    assert all(p.grad is None for p in measured.trainables.named.values())
    first, second = run_steps(measured), run_steps(plain)
    assert [(r.loss, r.grad_norm) for r in first] == [(r.loss, r.grad_norm) for r in second]


def test_the_median_of_three_steps_is_taken_after_a_warm_up(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr(fit.time, "monotonic", lambda: next(clock))
    passes = []
    monkeypatch.setattr(fit, "_pass", lambda _run, **which: passes.append(which))
    assert measure_step_seconds(_training()) == 5.0
    assert passes == [
        {"step": 0, "num_micro_batches": 1},
        *({"step": step, "num_micro_batches": 4} for step in range(3)),
    ]
