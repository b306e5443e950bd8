"""What trains, where each rank holds a part of it, to and from the files of a checkpoint.

All weights: each rank writes and reads its own blocks. An adapter is small: its parts are gathered, and its files are
those that a single process writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from whet.checkpoint.blocks import Block, Cut, block_of, own_blocks
from whet.checkpoint.load import Checkpoint
from whet.checkpoint.reshard import load_into
from whet.models.adapters import Trainables
from whet.optim.build import load_optimizer_tensors, optimizer_tensors
from whet.parallel.mesh import Layout
from whet.parallel.shares import full_tensors, own_parts, split_dim
from whet.parallel.tensor_group import TensorGroup

OPTIMIZER = "optimizer.safetensors"
ROUNDED = "rounded_factors.safetensors"
"""what the adapter file holds only up to rounding; there for adapters of several ranks only"""
_STEPS = ".step"
_MOMENTS = ("exp_avg", "exp_avg_sq")
WHOLE: Mapping[str, Cut] = {}
"""the cuts of tensors that are none"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Which part of what trains this rank holds."""

    layout: Layout
    group: TensorGroup | None = None
    """the ranks that share the work of each layer; None where each does all of it"""
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    """of the parameters that they share, by name"""

    @property
    def rank(self) -> int:
        return self.layout.data_rank * self.layout.num_tensor_ranks + self.layout.tensor_rank

    def own_blocks(self, tensors: Mapping[str, Tensor]) -> dict[str, Block]:
        """What this rank writes of parameters or their moments."""
        return own_blocks(
            tensors,
            _cuts_for(tensors, self.cuts),
            is_first_of_data=self.layout.data_rank == 0,
            is_first_of_tensor=self.layout.tensor_rank == 0,
        )

    def shapes(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Of the whole tensors."""
        cuts = _cuts_for(tensors, self.cuts)
        return {name: block_of(tensor, cuts.get(name)).shape for name, tensor in tensors.items()}

    def gathered(self, trainables: Trainables) -> Trainables:
        """An adapter with whole tensors, copies; all ranks must call it."""
        named = {name: nn.Parameter(tensor, False) for name, tensor in self.whole(trainables.named).items()}
        return replace(trainables, named=named, starts=self.whole(trainables.starts))

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole tensors of an adapter or of its moments; all ranks must call it."""
        assert self.group is not None, "nothing else cuts an adapter"
        return full_tensors(tensors, self.group)

    def own_parts(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's parts of whole tensors of an adapter or of its moments."""
        assert self.group is not None, "nothing else cuts an adapter"
        return own_parts(whole, self.group)


def spread_of(trainables: Trainables, layout: Layout) -> Spread | None:
    """How what trains is spread; None where every rank holds all of it. All ranks must call it."""
    values = trainables.all_values
    group = None
    cuts: dict[str, Cut] = {}
    if layout.num_tensor_ranks > 1:
        assert layout.mesh is not None
        processes = layout.mesh["tensor"].get_group()
        group = TensorGroup(rank=layout.tensor_rank, size=layout.num_tensor_ranks, processes=processes)
        cuts = _cuts_of(values, group)
    if not cuts and not any(isinstance(value, DTensor) for value in values.values()):
        return None
    return Spread(layout=layout, group=group, cuts=cuts)


def _cuts_of(values: Mapping[str, Tensor], group: TensorGroup) -> dict[str, Cut]:
    dims = {name: dim for name, value in values.items() if (dim := split_dim(name)) is not None and dim < value.ndim}
    if not dims:
        return {}
    device = next(iter(values.values())).device
    own = torch.tensor([values[name].shape[dim] for name, dim in dims.items()], device=device)
    sizes_of_ranks = group.gather(own).tolist()  # they may differ by one
    return {
        name: Cut(dim=dim, start=sum(sizes[: group.rank]), size=sum(sizes))
        for (name, dim), sizes in zip(dims.items(), zip(*sizes_of_ranks, strict=True), strict=True)
    }


def load_weights(trainables: Trainables, checkpoint: Checkpoint, spread: Spread | None) -> None:
    """The weights of `checkpoint`, however many ranks wrote it, into what trains here."""
    if not trainables.is_adapter and (spread is not None or checkpoint.is_sharded):
        load_into(checkpoint.folder, _blocks(trainables.named, spread))
        with torch.no_grad():
            for name, weight in trainables.weights.items():
                weight.copy_(trainables.named[name])
        return
    saved = checkpoint.tensors(trainables.weights_file)
    rounded = checkpoint.tensors(ROUNDED) if trainables.rounded() else {}
    if spread is None:
        trainables.load(saved, rounded)
        return
    named = {name: nn.Parameter(tensor, False) for name, tensor in _empty(trainables.named, spread).items()}
    whole = replace(trainables, named=named, starts=_empty(trainables.starts, spread))
    whole.load(saved, rounded)
    with torch.no_grad():
        for name, part in spread.own_parts(whole.all_values).items():
            trainables.all_values[name].copy_(part)


def load_moments(
    optimizer: torch.optim.Optimizer, trainables: Trainables, checkpoint: Checkpoint, spread: Spread | None
) -> None:
    """The optimizer's state of `checkpoint`, however many ranks wrote it."""
    named = trainables.named
    if trainables.is_adapter or (spread is None and not checkpoint.is_sharded):
        saved = checkpoint.tensors(OPTIMIZER)
        if spread is not None:
            saved = spread.own_parts(saved)
        load_optimizer_tensors(optimizer, named, saved)
        return
    saved = checkpoint.tensors(OPTIMIZER, ending=_STEPS)
    moments = {
        f"{name}.{moment}": torch.zeros_like(parameter)
        for name, parameter in named.items()
        if f"{name}{_STEPS}" in saved
        for moment in _MOMENTS
    }
    load_into(checkpoint.folder, _blocks(moments, spread))
    load_optimizer_tensors(optimizer, named, {**saved, **moments})


def split_state(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The optimizer's state: moments, each cut like its parameter; and numbers, which all ranks have alike."""
    state = optimizer_tensors(optimizer, named)
    numbers = {name: tensor for name, tensor in state.items() if tensor.ndim == 0}
    moments = {name: tensor for name, tensor in state.items() if tensor.ndim}
    assert all(tensor.shape == named[_parameter_of(name)].shape for name, tensor in moments.items())
    return moments, numbers


def _blocks(tensors: Mapping[str, Tensor], spread: Spread | None) -> dict[str, Block]:
    cuts = _cuts_for(tensors, spread.cuts if spread is not None else WHOLE)
    return {name: block_of(tensor, cuts.get(name)) for name, tensor in tensors.items()}


def _cuts_for(tensors: Mapping[str, Tensor], cuts: Mapping[str, Cut]) -> dict[str, Cut]:
    """Of parameters by their names; of moments (`<parameter>.exp_avg`) by those of their parameters."""
    return {
        name: cut
        for name in tensors
        if (cut := cuts.get(name) or cuts.get(_parameter_of(name))) is not None
    }  # fmt: skip


def _parameter_of(moment: str) -> str:
    return moment.rpartition(".")[0]


def _empty(tensors: Mapping[str, Tensor], spread: Spread) -> dict[str, Tensor]:
    """Whole tensors to load values into."""
    shapes = spread.shapes(tensors)
    return {name: torch.empty(shapes[name], dtype=tensor.dtype) for name, tensor in tensors.items()}
