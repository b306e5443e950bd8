"""Ranks that share the work of each layer, and what travels between them: rows of hidden states, whole and dealt out.

Between the blocks (residual stream, norms) each rank holds its own rows of a pass; inside a block all rows, of its own
heads or channels. This is sequence parallelism (Korthikanti et al., arXiv:2205.05198, section 4.2.2, g and g-bar):

    all rows = whole(own rows)                        backward: the ranks' gradients are added up and dealt out
    own rows of the sum = dealt(everyone's part)      backward: gradients of all rows, made whole

So every parameter that all ranks hold gets, on each of them, a part of its gradient alone, to be summed once a step;
one that is split gets all of it. Rows that the ranks do not divide are filled up with zeros, which nobody reads.

What travels has the dtype of the hidden states. Sums are taken in float32 or wider in the order of the ranks, so each
is rounded once and does not depend on the backend.

Shape letters: T rows of a pass, L of them on one rank (the last ones filled up), E hidden size, R ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from whet.parallel.mesh import Layout

# torch 2.13 renamed it
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """The ranks that share each layer, and this one's place among them."""

    rank: int
    size: int
    processes: dist.ProcessGroup

    def gather(self, tensor: Tensor) -> Tensor:
        """Everyone's tensor [...] as [R, ...], in the order of the ranks; no gradient."""
        gathered = tensor.new_empty((self.size, *tensor.shape))
        _all_gather(gathered.view(-1), tensor.reshape(-1), group=self.processes)
        return gathered

    def whole(self, x_LE: Tensor, num_rows: int) -> Tensor:
        """[num_rows, E] from everyone's own rows."""
        out: Tensor = _Whole.apply(x_LE, num_rows, self)
        return out

    def dealt(self, x_TE: Tensor) -> Tensor:
        """[L, E]: this rank's own rows of the sum of everyone's x."""
        out: Tensor = _Dealt.apply(x_TE, self)
        return out

    def sum_dealt(self, x_TE: Tensor) -> Tensor:
        """`dealt` without a gradient."""
        num_own = -(-len(x_TE) // self.size)
        sent = x_TE
        if len(x_TE) < num_own * self.size:
            sent = x_TE.new_zeros(num_own * self.size, x_TE.shape[1])
            sent[: len(x_TE)] = x_TE
        received = torch.empty_like(sent, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, sent.contiguous(), group=self.processes)
        wide = torch.promote_types(x_TE.dtype, torch.float32)
        return received.view(self.size, num_own, -1).sum(0, dtype=wide).to(x_TE.dtype)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_LE: Tensor, num_rows: int, group: TensorGroup) -> Tensor:
        ctx.group = group
        return group.gather(x_LE).flatten(0, 1)[:num_rows]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.group.sum_dealt(grads[0]), None, None


class _Dealt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TE: Tensor, group: TensorGroup) -> Tensor:
        ctx.group, ctx.num_rows = group, len(x_TE)
        return group.sum_dealt(x_TE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.group.gather(grads[0]).flatten(0, 1)[: ctx.num_rows], None


def group_of(layout: Layout) -> TensorGroup:
    """The ranks that share layers with this one."""
    assert layout.mesh is not None, "one rank alone shares nothing"
    return TensorGroup(layout.tensor_rank, layout.num_tensor_ranks, layout.mesh["tensor"].get_group())
