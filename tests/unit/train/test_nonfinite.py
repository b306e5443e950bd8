"""Who is at fault for a step that is not finite: the planted row and no other, the weights, the base, or nobody."""

import dataclasses

import pytest
import torch
from planted import plant
from tiny import LORA, build_training, make_plan, make_samples, run_steps, tiny_llama, values

from whet.errors import NonFiniteError
from whet.train import nonfinite

SAMPLES = make_samples([7, 4, 9, 5, 6, 3, 8, 5])
RARE = 2
"""a token that no sample holds"""


def training_of(adapter=LORA, *, samples=SAMPLES, model=None, **plan):
    made = make_plan(len(samples), micro_batch=2, global_batch=4, total_steps=2)
    adapter = dataclasses.replace(adapter, dropout=0.2) if adapter else None
    return build_training(
        model or tiny_llama(torch.float32), samples, dataclasses.replace(made, **plan), adapter=adapter
    )  # fmt: skip


def ids_of(training, step):
    return [SAMPLES[i].id for i in training.order.step(training.plan, step).indices]


def error_in(training, step):
    before = values(training)
    with pytest.raises(NonFiniteError) as caught:
        run_steps(training, [step])
    assert torch.allclose(values(training), before, rtol=0, atol=0, equal_nan=True), "updated before the check"
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.parametrize("adapter", [LORA, None], ids=["lora", "all weights"])
@pytest.mark.parametrize("kind", ["forward", "backward"])
@pytest.mark.parametrize(("step", "place"), [(0, 0), (0, 3), (1, 2)])
def test_the_planted_row_is_named_and_no_other(adapter, kind, step, place):
    training = training_of(adapter)
    run_steps(training, range(step))
    ids = ids_of(training, step)
    plant(training.loss_model, ids[place], module="layers.1.mlp", kind=kind, factor=float("inf"))
    error = error_in(training, step)
    assert error.where == f"samples {ids[place]}"
    assert f"step {step + 1}: loss" in error.what and "stopped before the update" in error.what
    assert "1 of the 4 rows" in error.what
    assert f"first in the {kind} pass: model.layers.1.mlp" in error.what


def test_two_rows_of_different_passes_are_both_named_in_the_order_of_the_step():
    training = training_of()
    ids = ids_of(training, 0)
    plant(training.loss_model, ids[3], ids[1], module="norm", kind="forward")
    error = error_in(training, 0)
    assert error.where == f"samples {ids[1]}, {ids[3]}"


def test_of_a_pass_that_fails_only_as_a_whole_all_rows_are_named():
    """Gradients that overflow in the sum over a pass alone."""
    training = training_of()
    first = training.rows(0).batches[0]
    real = training.loss_model.nll_sum

    def broken(batch):
        loss = real(batch)
        return loss * float("nan") if batch.sample_ids == first.sample_ids else loss

    training.loss_model.nll_sum = broken
    error = error_in(training, 0)
    assert set(error.where.removeprefix("samples ").split(", ")) == set(first.sample_ids)


def test_dropout_masks_of_the_search_are_those_of_the_step():
    """The row fails under one mask only: with others nothing would be found."""
    training = training_of()
    ids = ids_of(training, 0)
    layer = training.model.model.layers[0].self_attn.q_proj.lora_dropout["default"]
    seen = {}

    def note(batch):
        with training.dropout.micro_batch(0, batch):
            keep = layer.mask(64, torch.device("cpu"))
        for name, rows in zip(batch.sample_ids, keep.split(list(batch.lengths)), strict=True):
            seen.setdefault(name, []).append(rows)

    for batch in training.rows(0).batches:
        note(batch)
    real = nonfinite._is_finite

    def noted(run, taken, batch, watch=None):
        note(batch)
        return real(run, taken, batch, watch)

    nonfinite._is_finite = noted
    try:
        plant(training.loss_model, *ids, module="norm", kind="forward")
        error_in(training, 0)
    finally:
        nonfinite._is_finite = real
    assert all(len(masks) >= 3 and all(torch.equal(mask, masks[0]) for mask in masks) for masks in seen.values())


def with_rare_token(position):
    samples = make_samples([7, 4, 9, 5, 6, 3, 8, 5])
    samples[position].ids[0] = RARE
    return samples


@pytest.mark.parametrize("position", [1, 6])
def test_a_base_that_is_not_finite_is_blamed_and_the_row_that_met_it_named(position):
    model = tiny_llama(torch.float32, is_tied=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[RARE, 3] = float("nan")
    training = training_of(samples=with_rare_token(position), model=model)
    step = next(s for s in (0, 1) if f"sample-{position}" in ids_of(training, s))
    error = error_in(training, step)
    assert error.where == f"samples sample-{position}"
    assert "the base is at fault" in error.what and "model.embed_tokens.weight" in error.what
    assert "first in the forward pass: model.embed_tokens, its output" in error.what
    assert "optim.lr" not in error.mend


def test_weights_that_were_broken_by_the_step_before_are_blamed():
    training = training_of(None)
    run_steps(training, [0])
    with torch.no_grad():
        training.model.model.layers[1].mlp.up_proj.weight[2, 3] = float("inf")
    error = error_in(training, 1)
    assert "the weights are at fault" in error.what and "model.layers.1.mlp.up_proj.weight" in error.what
    assert "optim.lr" in error.mend and "last checkpoint" in error.mend


def test_an_adapter_that_is_not_finite_is_no_fault_of_the_base():
    training = training_of()
    name, parameter = next(iter(training.trainables.named.items()))
    with torch.no_grad():
        parameter[0, 0] = float("nan")
    error = error_in(training, 0)
    assert "the weights are at fault" in error.what and name in error.what


def test_where_every_row_fails_the_weights_have_run_away():
    training = training_of()
    plant(training.loss_model, *ids_of(training, 0), module="layers.0", kind="forward")
    assert "every row of the step fails" in error_in(training, 0).what


def test_what_does_not_come_back_is_said_to_be_nobodys():
    training = training_of()
    ids = ids_of(training, 0)
    plant(training.loss_model, ids[0], module="norm", kind="forward", times=1)
    error = error_in(training, 0)
    assert error.where is None
    assert "every pass by itself is finite" in error.what and "miscalculated" in error.what


def test_long_lists_of_rows_are_cut():
    samples = make_samples([5] * 12)
    plan = make_plan(12, micro_batch=12, global_batch=12)
    training = build_training(tiny_llama(torch.float32), samples, plan, adapter=LORA)
    plant(training.loss_model, *(s.id for s in samples[:11]), module="norm", kind="forward")
    error = error_in(training, 0)
    assert error.where.endswith(" and 3 more") and error.where.count("sample-") == 8
