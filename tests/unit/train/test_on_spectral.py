"""What the callback does to a run: when, to which tensors, and what the loss shows of it."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
from tiny import LORA, build_training, distance, make_plan, make_samples, tiny_llama, values

from whet.recipe.schema import Callback, Optim
from whet.train.callbacks import QuietCallback
from whet.train.chosen import CALLBACKS, chosen
from whet.train.loop import train
from whet.train.on_spectral import Spectral, factor_pairs
from whet.train.signals import StopRequest

pytestmark = pytest.mark.slow

SAMPLES = make_samples([12, 7, 9, 15, 6, 8, 11, 5])


class Witness(QuietCallback):
    """Keeps losses, events, and a copy of all values and moments after every step."""

    name = "witness"

    def __init__(self):
        self.losses, self.events, self.values, self.moments = [], [], [], []

    def on_start(self, run, step):
        self.run = run

    def on_event(self, step, text):
        self.events.append((step, text))

    def after_step(self, record):
        self.losses.append(record.loss)
        named, state = self.run.trainables.named, self.run.optimizer.state
        self.values.append({n: p.detach().clone() for n, p in named.items()})
        self.moments.append({n: {k: v.clone() for k, v in state[p].items()} for n, p in named.items()})
        return super().after_step(record)


def run(settings=None, *, steps=6, dtype=torch.float64, micro_batch=4, warmup_steps=0, adapter=LORA, **training):
    """A whole run of 4 samples per step; the witness sees each step after the refactoring."""
    witness = Witness()
    plan = make_plan(
        len(SAMPLES), micro_batch=micro_batch, global_batch=4, total_steps=steps, warmup_steps=warmup_steps
    )
    spectral = [Spectral(Callback(name="spectral", **settings))] if settings else []
    built = build_training(
        tiny_llama(dtype), SAMPLES, plan, adapter=adapter, callbacks=[*spectral, witness],
        optim=Optim(lr=2e-2, schedule="constant"), **training,
    )  # fmt: skip
    assert train(built, first_step=0, stop=StopRequest()) == steps
    return witness


def pair_names(named):
    return [(n, n.replace("lora_A", "lora_B")) for n in named if "lora_A" in n]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_exact_leaves_the_product_and_the_next_loss_as_they_are_and_turns_the_path_after_it(dtype, tolerance):
    plain, exact = run(dtype=dtype), run({"every": 3}, dtype=dtype)
    # the loss of step 4 is the first that the new factors compute
    assert exact.losses[:4] == pytest.approx(plain.losses[:4], abs=tolerance)
    for a, b in pair_names(plain.values[2]):
        new_b, new_a, b, a = (w.values[2][n].double() for w in (exact, plain) for n in (b, a))
        assert distance(new_b @ new_a, b @ a) < 1e-6
        assert distance(new_b, b) > 0.1
    assert abs(exact.losses[5] - plain.losses[5]) > 1e-5


@pytest.mark.parametrize(
    "changes",
    [{"init": "pissa"}, {"method": "dora"}, {"rslora": True, "lr_ratio": 4.0}],
    ids=["pissa", "dora", "lora+"],
)
def test_exact_leaves_the_next_loss_of_other_adapters_as_it_is_too(changes):
    """The start of PiSSA is a constant beside the pair; DoRA's lengths depend on the product alone."""
    adapter = replace(LORA, **changes)
    plain, exact = (run(s, steps=4, adapter=adapter) for s in (None, {"every": 3}))
    assert exact.losses == pytest.approx(plain.losses, abs=1e-9)
    assert "14 pairs refactored" in exact.events[0][1]
    assert any(distance(exact.values[2][n], value) > 0.01 for n, value in plain.values[2].items())


def test_it_acts_once_per_optimizer_step_whatever_the_accumulation():
    whole, in_four = (run({"every": 2, "mode": "balanced"}, micro_batch=m) for m in (4, 1))
    assert [step for step, _ in in_four.events] == [2, 4, 6]
    assert in_four.losses == pytest.approx(whole.losses, rel=1e-10)


def test_it_acts_between_warm_up_and_cool_down():
    assert [s for s, _ in run({"every": 1, "warmup_steps": 3, "cooldown_steps": 2}).events] == [3, 4]


@pytest.mark.parametrize("second_moments", ["map", "keep", "clear"])
def test_moments_follow_the_factors(second_moments):
    """The maps are found here from the factors themselves: T_B = B^+ B', T_A = A' A^+."""
    plain = run(steps=3)
    exact = run({"every": 3, "second_moments": second_moments}, steps=3)
    for a, b in pair_names(plain.values[2]):
        t_b = torch.linalg.pinv(plain.values[2][b]) @ exact.values[2][b]
        t_a = exact.values[2][a] @ torch.linalg.pinv(plain.values[2][a])
        old_b, old_a, new_b, new_a = (w.moments[2][n] for w in (plain, exact) for n in (b, a))
        if second_moments == "clear":
            assert not any(value.any() for state in (new_a, new_b) for value in state.values())
            continue
        assert distance(new_b["exp_avg"], old_b["exp_avg"] @ t_a.T) < 1e-9
        assert distance(new_a["exp_avg"], t_b.T @ old_a["exp_avg"]) < 1e-9
        assert new_a["step"] == new_b["step"] == 3
        kept = second_moments == "keep"
        expected_b = old_b["exp_avg_sq"] if kept else old_b["exp_avg_sq"] @ (t_a.T**2)
        expected_a = old_a["exp_avg_sq"] if kept else (t_b.T**2) @ old_a["exp_avg_sq"]
        assert distance(new_b["exp_avg_sq"], expected_b) < 1e-9
        assert distance(new_a["exp_avg_sq"], expected_a) < 1e-9


def test_after_clearing_no_entry_moves_further_than_the_learning_rate():
    """Second moments cleared alone, late in a run, make the next step up to 1 / sqrt(1 - beta_2) = 32 times as long."""
    witness = run({"every": 5, "second_moments": "clear"}, steps=6)
    moved = max(float((witness.values[5][n] - witness.values[4][n]).abs().max()) for n in witness.values[5])
    assert moved <= 2e-2 * (1 + 1e-6)


def test_while_b_is_zero_nothing_changes_and_the_event_says_why():
    """With a warm-up the first learning rate is zero, so B is still what LoRA starts it with."""
    plain, exact = (
        run(s, steps=3, warmup_steps=2, is_perturbed=False, dtype=torch.float32) for s in (None, {"every": 1})
    )
    for name, value in plain.values[0].items():
        assert torch.equal(exact.values[0][name], value) and value.any() == ("lora_A" in name)
        assert all(torch.equal(exact.moments[0][name][k], v) for k, v in plain.moments[0][name].items())
    assert exact.losses[:2] == plain.losses[:2]
    assert "exact: 0 pairs refactored, 14 left alone because BA is not of full rank; " in exact.events[0][1]
    assert "exact: 14 pairs refactored, BA moved by at most" in exact.events[1][1]
    assert all(t.isfinite().all() for n, p in exact.values[2].items() for t in (p, *exact.moments[2][n].values()))


def test_the_event_says_how_far_the_product_moved():
    plain = run(steps=3)
    balanced = run({"every": 3, "mode": "balanced", "balance": 0.5}, steps=3)
    far = max(
        distance(balanced.values[2][b] @ balanced.values[2][a], plain.values[2][b] @ plain.values[2][a])
        for a, b in pair_names(plain.values[2])
    )
    ((step, text),) = balanced.events
    assert step == 3 and f"14 pairs refactored, BA moved by at most {far:.1e} of its norm; " in text
    assert text.startswith("spectral, balanced with lambda 1.000: ")
    ((_, text),) = run({"every": 3}, steps=3).events
    assert text.startswith("spectral, exact: ") and float(text.split("at most ")[1].split()[0]) < 1e-12


def test_a_run_too_short_to_be_refactored_is_told_so():
    assert run({"every": 7}).events == [(0, "spectral: none of the 6 steps refactors the adapter")]


def test_no_random_number_of_training_is_used():
    before = torch.get_rng_state()
    plain = run(steps=2)
    after_plain = torch.get_rng_state()
    torch.set_rng_state(before)
    run({"every": 1}, steps=2)
    assert torch.equal(torch.get_rng_state(), after_plain)
    assert plain.events == []


def test_every_callback_of_the_schema_can_be_built():
    names = get_args(get_type_hints(Callback)["name"])
    assert set(CALLBACKS) == set(names)
    for name in names:
        (built,) = chosen(type("Recipe", (), {"callbacks": (Callback(name=name),)}))
        assert built.name == name


def test_pairs_are_found_by_name_and_other_trained_weights_left_out():
    training = build_training(tiny_llama(), SAMPLES, make_plan(8, micro_batch=4, global_batch=4), adapter=LORA)
    named = {"model.norm.weight": torch.nn.Parameter(torch.ones(3)), **training.trainables.named}
    pairs = factor_pairs(named)
    assert len(pairs) == 14
    assert all(a.shape[0] == b.shape[1] == 4 for a, b in pairs)
    assert len(values(training)) == sum(p.numel() for pair in pairs for p in pair)
