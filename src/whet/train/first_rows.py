"""The losses of the first training rows, for an adapter that starts from what the base makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

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
    """Summed loss of each sample that training begins with, without an update between them.

    The first 64 of the order, or 16,384 tokens, or an epoch; one at a time, so that no start depends on how the run is
    cut into passes.
    """
    attention.install(model)
    num_tokens = 0
    in_order = chain.from_iterable(order.step(plan, step).indices for step in range(plan.steps_per_epoch))
    for index in islice(in_order, NUM_SAMPLES):
        batch = pack([samples[index]], device)
        yield loss_model.nll_sum(batch)
        num_tokens += sum(batch.lengths)
        if num_tokens >= NUM_TOKENS:
            return
