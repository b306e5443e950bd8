"""Fifty training steps through the fused functions and through transformers' and PEFT's modules: the same losses.

The same seed, rows, micro-batches and dropout masks on both sides. What is compared with is the whole of it: the
modules' own projections, norms, rotary embedding and feed-forward layers, one dense mask over the pack, full logits.
"""

from __future__ import annotations

import pytest
import torch
from tiny import build_training, make_plan, make_samples, run_steps, tiny_llama, values

from whet.kernels import reference, select
from whet.models.adapters import ADAPTER_NAME
from whet.optim.schedule import lr_at
from whet.recipe.schema import Adapter, Optim
from whet.train.loop import Training

NUM_STEPS = 50
LENGTHS = (40, 33, 25, 18, 31, 12, 27, 36)
OPTIM = Optim(lr=3e-3, schedule="cosine", warmup=5, weight_decay=0.01)
LORA = Adapter(rank=4, alpha=8.0, dropout=0.05)


def training(dtype: torch.dtype, adapter: Adapter | None = LORA, *, off: frozenset[str] = frozenset()) -> Training:
    """Two micro-batches of about two rows per step."""
    model, samples = tiny_llama(dtype), make_samples(LENGTHS)
    plan = make_plan(len(samples), micro_batch=2, global_batch=4, total_steps=NUM_STEPS, warmup_steps=5)
    run = build_training(model, samples, plan, adapter=adapter, optim=OPTIM, is_perturbed=False)
    if off:
        select.install(model, adapter_name=ADAPTER_NAME if adapter else None, off=off)
    return run


def reference_losses(run: Training) -> list[float]:
    """The run with the modules as transformers and PEFT have them, written as the textbook has it."""
    select.uninstall(run.model)
    run.model.set_attn_implementation("sdpa")
    losses = []
    for step in range(NUM_STEPS):
        rows = run.rows(step)
        run.model.train()
        run.optimizer.zero_grad()
        nll = 0.0
        for batch in rows.batches:
            document_T = torch.repeat_interleave(torch.arange(len(batch.lengths)), torch.tensor(batch.lengths))
            is_seen_TT = (document_T[:, None] == document_T[None, :]).tril()
            mask_11TT = torch.zeros(is_seen_TT.shape, dtype=run.model.dtype).masked_fill(~is_seen_TT, -torch.inf)
            with run.dropout.micro_batch(step, batch):
                hidden_TE = run.loss_model.backbone(
                    input_ids=batch.ids_T[None], position_ids=batch.positions_T[None],
                    attention_mask=mask_11TT[None, None], use_cache=False,
                ).last_hidden_state[0]  # fmt: skip
                loss = reference.nll_sum(hidden_TE, run.loss_model.head.weight, batch.labels_T)
                (loss / rows.num_taught).backward()
            nll += loss.item()
        torch.nn.utils.clip_grad_norm_(run.trainables.named.values(), OPTIM.max_grad_norm)
        for group in run.optimizer.param_groups:
            group["lr"] = lr_at(step, OPTIM, total_steps=NUM_STEPS, warmup_steps=5)
        run.optimizer.step()
        losses.append(nll / rows.num_taught)
    return losses


def largest_gap(ours: list[float], theirs: list[float]) -> float:
    assert len(ours) == len(theirs) == NUM_STEPS
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


# float64: rounding alone, amplified by fifty updates. float32: sums in another order differ by 1e-7, and Adam moves
# what has a gradient near zero by a whole learning rate either way. bfloat16: 8 bits of mantissa in every product, in
# another order on each side.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)  # fmt: skip
def test_fifty_steps_with_lora_and_dropout_have_the_losses_of_the_modules(dtype, tolerance):
    fused, modules = training(dtype), training(dtype)
    losses = [record.loss for record in run_steps(fused)]
    assert losses[-1] < losses[0] - 0.5, "nothing was learnt, so that nothing was compared"
    assert largest_gap(losses, reference_losses(modules)) < tolerance


def test_fifty_steps_of_all_weights_have_the_losses_of_the_modules():
    fused, modules = training(torch.float64, None), training(torch.float64, None)
    assert largest_gap([record.loss for record in run_steps(fused)], reference_losses(modules)) < 1e-9


def test_the_same_run_twice_is_the_same_to_the_last_bit():
    """Everything on: dropout, fused functions, micro-batches."""
    runs = [training(torch.bfloat16) for _ in range(2)]
    losses = [[record.loss for record in run_steps(run, range(10))] for run in runs]
    assert losses[0] == losses[1]
    assert torch.equal(*(values(run) for run in runs))
