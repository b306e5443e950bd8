"""Law: loss, gradients and update do not depend on how a step is cut into micro-batches."""

import pytest
import torch
from tiny import (
    LORA,
    build_training,
    distance,
    gradients,
    make_plan,
    make_samples,
    run_steps,
    summed_nll,
    tiny_llama,
    values,
)  # fmt: skip

from whet.recipe.schema import Adapter, Optim

LENGTHS = [17, 9, 30, 5, 12, 8]
"""6 samples in steps of 4: the second step of an epoch is short, and cut unevenly by micro-batches of 4."""
NO_CLIPPING = Optim(lr=1e-3, schedule="constant", warmup=0, max_grad_norm=0)
ADAPTERS = {"lora": LORA, "lora with dropout": Adapter(rank=4, alpha=8.0, dropout=0.3), "all weights": None}
STEPS = pytest.mark.parametrize("step", [0, 1], ids=["full step", "short step"])


def _training(micro_batch, *, dtype=torch.float64, adapter=LORA):
    plan = make_plan(len(LENGTHS), micro_batch=micro_batch, global_batch=4, total_steps=4)
    return build_training(tiny_llama(dtype), make_samples(LENGTHS), plan, adapter=adapter, optim=NO_CLIPPING)


@STEPS
@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_loss_and_gradients_do_not_depend_on_the_split(adapter, micro_batch, step):
    whole, split = _training(4, adapter=adapter), _training(micro_batch, adapter=adapter)
    (expected,), (record,) = run_steps(whole, [step]), run_steps(split, [step])
    assert record.num_taught == expected.num_taught
    assert record.loss == pytest.approx(expected.loss, rel=1e-10)
    assert record.grad_norm == pytest.approx(expected.grad_norm, rel=1e-10)
    assert distance(gradients(split), gradients(whole)) < 1e-10


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_in_float32_the_split_changes_rounding_alone(micro_batch):
    whole, split = _training(4, dtype=torch.float32), _training(micro_batch, dtype=torch.float32)
    start = values(whole)
    (expected,), (record,) = run_steps(whole, [0]), run_steps(split, [0])
    assert record.loss == pytest.approx(expected.loss, abs=1e-6)
    assert distance(gradients(split), gradients(whole)) < 1e-6
    run_steps(whole, [1, 2, 3])
    run_steps(split, [1, 2, 3])
    # Adam divides by the root of the second moment and so amplifies rounding where gradients are near zero
    assert distance(values(split) - start, values(whole) - start) < 1e-3


@STEPS
def test_the_loss_is_the_mean_over_the_taught_tokens_of_the_step(step):
    training = _training(2, adapter=None)
    model = tiny_llama()
    samples = [training.samples[i] for i in training.order.step(training.plan, step).indices]
    loss = sum(summed_nll(model, s) for s in samples) / sum(s.taught[1:].sum() for s in samples)
    loss.backward()
    (record,) = run_steps(training, [step])
    assert record.loss == pytest.approx(loss.item(), rel=1e-10)
    expected = torch.cat([dict(model.named_parameters())[n].grad.reshape(-1) for n in training.trainables.named])
    assert distance(gradients(training), expected) < 1e-10
