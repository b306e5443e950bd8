"""The step on a GPU: attention of all documents at once, one wait in a step, copies beside training."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from tiny import build_training, make_plan, make_samples, tiny_llama

from whet.checkpoint.staging import Staging
from whet.data.packing import pack
from whet.kernels import attention_varlen, reference
from whet.kernels.attention import DocumentLayout, attention_at_once
from whet.kernels.attention_varlen import Heads
from whet.kernels.dropout import DropoutState, StatelessDropout
from whet.recipe.schema import Adapter
from whet.train.callbacks import Requests
from whet.train.loop import train_step
from whet.train.prefetch import Prefetch
from whet.train.signals import StopRequest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
LORA = Adapter(rank=4, alpha=8.0, dropout=0.05)
SAMPLES = make_samples((40, 33, 25, 18, 31, 12, 27, 36))
LLAMA_8B = Heads(num_query=32, num_key=8, size=128, dtype=torch.bfloat16)
SMOLLM2 = Heads(num_query=9, num_key=3, size=64, dtype=torch.bfloat16)


def test_a_gpu_computes_all_documents_at_once():
    assert attention_varlen.choose(LLAMA_8B, CUDA) != "documents", attention_varlen.find("torch", LLAMA_8B, CUDA)


@pytest.mark.parametrize("heads", [LLAMA_8B, SMOLLM2], ids=["8B", "SmolLM2"])
@pytest.mark.parametrize("lengths", [(1,), (300, 1, 17, 129), (64,) * 20, (2048,)])
def test_values_and_gradients_equal_the_reference(heads, lengths):
    varlen = attention_varlen.load(attention_varlen.choose(heads, CUDA), heads, CUDA)
    assert varlen is not None
    generator, total = torch.Generator().manual_seed(0), sum(lengths)

    def draw(num_heads):
        return torch.randn(num_heads, total, heads.size, generator=generator).to(CUDA, heads.dtype)

    inputs = [draw(num).requires_grad_() for num in (heads.num_query, heads.num_key, heads.num_key)]
    weights = draw(heads.num_query).transpose(0, 1)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    ours = attention_at_once(varlen, *inputs, DocumentLayout(lengths), heads.size**-0.5)
    truth = reference.document_attention(*exact, lengths, heads.size**-0.5)
    grads = torch.autograd.grad(ours, inputs, weights)
    expected = torch.autograd.grad(truth, exact, weights.double())
    for a, b in zip((ours, *grads), (truth, *expected), strict=True):
        assert float((a.double() - b).norm() / b.norm().clamp(min=1e-9)) < 0.02 or float(b.norm()) < 1e-9


def _training(dtype=torch.float32):
    plan = make_plan(len(SAMPLES), micro_batch=2, global_batch=4, total_steps=4)
    made = build_training(tiny_llama(dtype).to(CUDA), SAMPLES, plan, adapter=LORA)
    return replace(made, device=CUDA)


def test_a_step_waits_for_the_gpu_once():
    run = _training()
    train_step(run, 0, asked=Requests(), stop=StopRequest())
    rows = run.rows(1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            train_step(run, 1, asked=Requests(), stop=StopRequest(), rows=lambda _: rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told = [str(warning.message) for warning in waits if "synchroniz" in str(warning.message)]
    assert len(told) == 1, told


def test_dropout_masks_have_the_bits_of_the_cpu():
    state = DropoutState(3)
    dropout = StatelessDropout(0.3, module_name="layers.0", state=state)
    with state.micro_batch(5, pack(SAMPLES)):
        assert torch.equal(dropout.mask(576, CUDA).cpu(), dropout.mask(576, torch.device("cpu")))


def test_batches_that_were_sent_ahead_are_those_of_the_host():
    run = _training()
    with Prefetch(run.rows, range(4), CUDA) as rows:
        for step in range(4):
            for ours, expected in zip(rows(step).batches, run.rows(step).batches, strict=True):
                assert ours.ids_T.is_cuda and torch.equal(ours.ids_T.cpu(), expected.ids_T)
                assert torch.equal(ours.taught_N.cpu(), expected.taught_N)
                assert torch.equal(ours.offsets_D.cpu(), expected.offsets_D)


def test_a_staged_copy_holds_what_was_there_when_it_was_begun():
    weight, staging = torch.zeros(4096, 4096, device=CUDA), Staging()
    for value in (1.0, 2.0):
        weight.fill_(value)
        copied = staging.copy({"w": {"a": weight, "step": torch.tensor(value)}})
        weight.fill_(-1)
        held = copied()["w"]
        assert held["a"].is_pinned() and bool((held["a"] == value).all()) and float(held["step"]) == value


def test_two_runs_from_the_same_state_have_the_same_bits():
    def trained():
        run = _training(torch.bfloat16)
        for step in range(3):
            train_step(run, step, asked=Requests(), stop=StopRequest())
        return torch.cat([p.detach().reshape(-1) for p in run.trainables.named.values()])

    assert torch.equal(trained(), trained())
