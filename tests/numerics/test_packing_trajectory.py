"""Twenty steps with exact-batch packing against plain padded batches: the same samples, the same losses.

The reference is written out: transformers' own model, rows padded to the longest of their batch, an attention mask,
full logits, torch's cross-entropy and AdamW. Only the order of samples is shared, because it is what exact means.
"""

import numpy as np
import pytest
import torch
from tiny import LORA, attach, build_training, make_plan, make_samples, perturb, run_steps, tiny_llama
from torch import nn

from whet.optim.schedule import lr_at
from whet.recipe.schema import Optim

NUM_STEPS, GLOBAL, MICRO = 20, 8, 4
OPTIM = Optim(lr=1e-3, schedule="cosine", warmup=2, weight_decay=0.0, max_grad_norm=1.0)
SAMPLES = make_samples(np.random.default_rng(5).integers(4, 40, 3 * 16 + 5).tolist(), seed=5)
PLAN = make_plan(len(SAMPLES), micro_batch=MICRO, global_batch=GLOBAL, total_steps=NUM_STEPS, warmup_steps=2)


def _padded_nll(model, samples):
    """Summed nll over taught tokens of a right-padded batch."""
    width = max(s.num_tokens for s in samples)
    ids_BT = torch.zeros(len(samples), width, dtype=torch.long)
    mask_BT, labels_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, -100)
    for row, sample in enumerate(samples):
        ids = torch.from_numpy(sample.ids.astype(np.int64))
        ids_BT[row, : len(ids)] = ids
        mask_BT[row, : len(ids)] = 1
        labels_BT[row, : len(ids)] = torch.where(torch.from_numpy(sample.taught), ids, -100)
    logits_BTV = model(ids_BT, attention_mask=mask_BT, use_cache=False).logits
    return nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="sum")


def _reference(order, dtype):
    model = tiny_llama(dtype, seed=3)
    trainables = attach(model, LORA)
    perturb(trainables)
    parameters = list(trainables.named.values())
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=OPTIM.betas, eps=OPTIM.eps, weight_decay=0.0)
    losses = []
    for step in range(NUM_STEPS):
        samples = [SAMPLES[i] for i in order.step(PLAN, step).indices]
        num_taught = sum(int(s.taught[1:].sum()) for s in samples)
        optimizer.zero_grad()
        total = 0.0
        for start in range(0, len(samples), MICRO):
            nll = _padded_nll(model, samples[start : start + MICRO])
            (nll / num_taught).backward()
            total += nll.item()
        nn.utils.clip_grad_norm_(parameters, OPTIM.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, OPTIM, total_steps=NUM_STEPS, warmup_steps=2)
        optimizer.step()
        losses.append(total / num_taught)
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_twenty_packed_steps_have_the_losses_of_twenty_padded_ones(dtype, tolerance):
    packed = build_training(tiny_llama(dtype, seed=3), SAMPLES, PLAN, adapter=LORA, optim=OPTIM)
    losses = [record.loss for record in run_steps(packed)]
    assert losses == pytest.approx(_reference(packed.order, dtype), rel=tolerance)
    assert losses[-1] < losses[0]
