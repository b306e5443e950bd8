"""Leave each rank its part of a model whose layers ranks share (parallel/tensor.py), and say what is in parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from whet.kernels.loss_head import VocabularyShare, set_share
from whet.models.adapters import Trainables
from whet.parallel.mesh import Layout
from whet.parallel.reduce import broadcast_from_main
from whet.parallel.shares import split_dim
from whet.parallel.tensor import parallelize
from whet.parallel.tensor_group import group_of
from whet.train.loss import LossModel


def share_layers(
    loss_model: LossModel, model: nn.Module, layout: Layout, adapter: Trainables | None, device: torch.device
) -> None:
    """Cut `model`, which may lie in the host's memory, and bring what stays to `device`; all ranks call it.

    An adapter's factors become the first rank's before they are cut: those of a decomposition may come out turned
    around on another processor. RecipeError where the ranks cannot share this model.
    """
    if adapter is not None:
        _take_the_first_ranks(adapter, device)
    group = group_of(layout)
    first_token = parallelize(model, group)
    set_share(loss_model.head, VocabularyShare(first_token, group.gather))
    if not layout.is_sharded:  # else the parts are brought there layer by layer
        model.to(device)


@torch.no_grad()
def _take_the_first_ranks(adapter: Trainables, device: torch.device) -> None:
    for value in adapter.all_values.values():
        sent = value.to(device)
        broadcast_from_main([sent])
        value.copy_(sent)


def split_parameters(trainables: Trainables, layout: Layout) -> frozenset[Tensor]:
    """What gets gradients and is held in parts by ranks that share layers; sharded ones say so themselves."""
    if layout.num_tensor_ranks == 1:
        return frozenset()
    named = trainables.weights or trainables.named
    return frozenset(p for name, p in named.items() if split_dim(name) is not None and not isinstance(p, DTensor))
