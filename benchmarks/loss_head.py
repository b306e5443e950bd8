"""Claim: whet's loss head is faster than torch's linear_cross_entropy on a CPU, with none of its logits kept.

SmolLM2's head (49,152 tokens x 576), forward and backward, one thread, processor seconds: whet's own in blocks, torch's
`linear_cross_entropy` in chunks as `train.loss_head: torch` calls it, and full logits (`kernels/reference.py`). The
three are called in turn; the middle of all rounds counts. `train.loss_head: auto` follows from it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from machine import write_result
from whet.kernels import reference
from whet.kernels.loss_head import linear_nll_sum

VOCAB, HIDDEN = 49_152, 576
NUM_TAUGHT = (300, 700, 2000)


def processor_seconds(head: Callable[[Tensor, Tensor, Tensor], Tensor], *inputs: Tensor) -> float:
    """Of one forward and backward pass in this thread and autograd's."""
    for each in inputs[:2]:
        each.grad = None
    started = time.process_time()
    head(*inputs).backward()
    return time.process_time() - started


def compare(dtype: torch.dtype, num_taught: int, *, trains_head: bool, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_taught, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = (0.05 * torch.randn(VOCAB, HIDDEN, generator=generator)).to(dtype).requires_grad_(trains_head)
    labels = torch.randint(0, VOCAB, (num_taught,), generator=generator)
    heads = {kind: partial(linear_nll_sum, dtype=dtype, kind=kind) for kind in ("chunked", "torch")}
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for name, head in {**heads, "full logits": reference.nll_sum}.items():
            seconds.setdefault(name, []).append(processor_seconds(head, hidden, weight, labels))
    row = {
        "dtype": str(dtype).removeprefix("torch."), "trains_head": trains_head, "taught_tokens": num_taught,
        "runs": rounds, "median_seconds": {name: statistics.median(all_[1:]) for name, all_ in seconds.items()},
        "range_seconds": {name: [min(all_[1:]), max(all_[1:])] for name, all_ in seconds.items()},
    }  # fmt: skip
    told = "  ".join(f"{name} {value * 1000:6.0f} ms" for name, value in row["median_seconds"].items())
    print(f"{row['dtype']:9s} {'trained' if trains_head else 'frozen':8s} {num_taught:5d} tokens  {told}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of the smallest; nothing is written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        compare(dtype, n, trains_head=trains_head, rounds=1 if args.quick else args.rounds)
        for dtype in (torch.bfloat16, torch.float32)
        for trains_head in (False, True)
        for n in (NUM_TAUGHT[:1] if args.quick else NUM_TAUGHT)
    ]
    if not args.quick:
        result = {"vocabulary": VOCAB, "hidden": HIDDEN, "threads": 1, "rows": rows}
        write_result("loss_head", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


if __name__ == "__main__":
    main()
