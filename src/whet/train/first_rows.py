"""The losses of the first training rows, for an adapter that starts from what the base makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from whet.data.packing import pack
from whet.data.sampler import Order
from whet.kernels import attention
from whet.train.loss import LossModel
from whet.types import RunPlan, TokenizedSample

NUM_SAMPLES = 64
NUM_TOKENS = 16_384


def first_losses(
    model: nn.Module, loss_model: LossModel, samples: Sequence[TokenizedSample], order: Order, plan: RunPlan,
    device: torch.device,
) -> Iterator[Tensor]:  # fmt: skip
    """Summed loss of each forward pass that training begins with, without an update between them.

    Whole passes until 64 samples or 16,384 tokens have been seen, or an epoch: the same on every rank.
    """
    attention.install(model)
    num_samples = num_tokens = 0
    for step in range(plan.steps_per_epoch):
        for one_pass in order.step(plan, step).passes:
            if len(one_pass) == 0:
                continue
            batch = pack([samples[i] for i in one_pass], device)
            yield loss_model.nll_sum(batch)
            num_samples += len(one_pass)
            num_tokens += sum(batch.lengths)
            if num_samples >= NUM_SAMPLES or num_tokens >= NUM_TOKENS:
                return
