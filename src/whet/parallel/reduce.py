"""One collective per optimizer step: gradients, loss sum and stop requests in one flat buffer; and a few beside it.

Gradients are summed, not averaged: every rank has already divided by the taught tokens of the whole step
(docs/decisions/0001-plain-all-reduce.md). A rank that is lost meanwhile is a PeerLostError, everywhere here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from whet.parallel.collective import collective
from whet.parallel.patience import patient_group


def all_reduce_step(
    parameters: Iterable[Tensor], numbers: Tensor, group: dist.ProcessGroup | None = None
) -> Tensor:  # fmt: skip
    """Sum the gradients of `parameters` (in place) and `numbers` [N] over `group` (None: all ranks); returns these.

    A parameter without a gradient counts as zero, so a rank with nothing to do still takes part. All travel in
    float32 or wider: bfloat16 gradients are rounded once, when their sum is known. Nothing waits for a GPU here.
    Gradients of sharded parameters (DTensors) were summed in the backward pass and are left alone.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return numbers
    params = [p for p in parameters if not isinstance(p, DTensor)]
    for p in params:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    dtype = torch.promote_types(params[0].dtype, torch.float32) if params else numbers.dtype
    flat = torch.cat([*(p.grad.reshape(-1).to(dtype) for p in params if p.grad is not None), numbers.to(dtype)])
    start = flat.numel() - len(numbers)
    with collective("gradient all-reduce"):
        dist.all_reduce(flat, group=group)
    offset = 0
    for p in params:
        assert p.grad is not None
        p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()
    return flat[start:].to(numbers.dtype)


def broadcast_from_main(tensors: Iterable[Tensor]) -> None:
    """Copy rank 0's values to every rank, so that all start from the same bits.

    Of a tensor in parts (DTensor) those of the first replica go to the others; parts differ from rank to rank.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        with collective("broadcast of rank 0's values"):
            for t in tensors:
                if not isinstance(t, DTensor):
                    dist.broadcast(t.detach(), src=0)
                elif t.device_mesh.ndim > 1:
                    dist.broadcast(t.to_local().detach(), group=t.device_mesh.get_group(0), group_src=0)


def broadcast_text(text: str | None, group: dist.ProcessGroup | None = None, *, is_patient: bool = False) -> str:
    """Rank 0's text on every rank (plans and paths that only rank 0 decides).

    `group` is another one of all ranks; `is_patient`: rank 0 may be long in coming.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        assert text is not None
        return text
    device = _device_of(group)
    content = (text or "").encode()
    length = torch.tensor([len(content)], device=device)
    with collective("broadcast of rank 0's word", is_patient=is_patient):
        dist.broadcast(length, src=0, group=group)
        data = torch.zeros(int(length), dtype=torch.uint8, device=device)
        if dist.get_rank() == 0:
            data = torch.tensor(list(content), dtype=torch.uint8, device=device)
        dist.broadcast(data, src=0, group=group)
    return bytes(data.tolist()).decode()


def gather_texts(text: str, group: dist.ProcessGroup | None = None, *, is_patient: bool = False) -> list[str]:
    """The texts of all ranks on every rank, in the order of the ranks; texts may differ in length.

    `group` is another one of all ranks; `is_patient`: some ranks may be long in coming.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [text]
    device = _device_of(group)
    content = np.frombuffer(text.encode(), dtype=np.uint8).copy()
    with collective("exchange of texts", is_patient=is_patient):
        lengths = _all_gather(torch.tensor([len(content)], device=device), group)
        padded = torch.zeros(int(torch.cat(lengths).max()), dtype=torch.uint8, device=device)
        padded[: len(content)] = torch.from_numpy(content).to(device)
        contents = _all_gather(padded, group)
    return [
        data[: int(length)].cpu().numpy().tobytes().decode() for data, length in zip(contents, lengths, strict=True)
    ]


def _all_gather(tensor: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tensor, group=group)
    return gathered


def _device_of(group: dist.ProcessGroup | None) -> torch.device:
    """NCCL moves CUDA tensors only."""
    return torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")


def sum_over_ranks(
    numbers: Sequence[float], device: torch.device, group: dist.ProcessGroup | None = None
) -> list[float]:  # fmt: skip
    """Sum of `numbers` over `group` (None: all ranks) in float64."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return list(numbers)
    box = torch.tensor(list(numbers), dtype=torch.float64, device=device)
    with collective("sum over ranks"):
        dist.all_reduce(box, group=group)
    return [float(x) for x in box]


def any_over_ranks(is_true: bool) -> bool:
    """Whether it is true on any rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return is_true
    box = torch.tensor([float(is_true)], device=_device_of(None))
    with collective("vote of all ranks"):
        dist.all_reduce(box)
        return bool(box.item() > 0)


def barrier(*, is_patient: bool = False) -> None:
    """Wait for all ranks; `is_patient`: some may be long in coming."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        with collective("barrier", is_patient=is_patient):
            dist.barrier(patient_group() if is_patient else None)
