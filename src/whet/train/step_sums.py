"""What ranks add up before an update: gradients, their squares, the loss and what they ask for, each counted once.

| parameter | its gradient on a rank | is summed over |
|---|---|---|
| sharded (DTensor) | of its own part, summed in the backward pass | nobody any more |
| split among ranks that share layers | of its own part, from its data rank's rows | data ranks |
| held by all ranks | from its data rank's rows and its own share of the layers | all ranks |

The last row travels with the numbers in one collective; where layers are not shared, it is the only one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from whet.optim.clip import square_of_parts
from whet.parallel.mesh import Layout
from whet.parallel.reduce import all_reduce_step


def add_up(
    parameters: Sequence[Tensor], split: Collection[Tensor], layout: Layout, *, nll: Tensor, own: Tensor
) -> Tensor:
    """Make the gradients those of the whole step, in place; [squares, loss, *own] in sum over all ranks.

    `split` are those of `parameters` that ranks which share layers hold in parts. `squares`: of all gradients that no
    rank holds whole, for the norm.
    """
    held = [p for p in parameters if p not in split]
    # every replica has all shards, every data rank all parts
    squares = square_of_parts(held) / layout.num_replicas
    if split:
        in_order = [p for p in parameters if p in split]
        if layout.num_data_ranks > 1:
            all_reduce_step(in_order, own[:0], layout.data_group)
        squares = squares + square_of_parts(in_order, split) / layout.num_data_ranks
    # ranks that share layers have the same loss
    return all_reduce_step(held, torch.cat([squares, nll[None] / layout.num_tensor_ranks, own]))
