"""Claim: bfloat16 weights with float32 masters, or with moments of 8 bits, train within 1 % of AdamW in float32.

The gate of `optim.master: float32` and `optim.name: adamw_8bit`. A toy Llama learns 200 steps on rows in which a token
follows from the one before it in nine cases of ten; compared is the mean training loss of the last 20 steps, seed by
seed. As a control, AdamW on bfloat16 weights without masters: what the two are there to avoid. Exit code 1 when a way
that must pass is further off.

torchao's AdamW8bit is not run here: it draws its roundings from torch's global state and must be compiled. Its tables
and codes are compared in tests/unit/optim/test_eight_bit.py.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpu_side import SHAPES, build, token_set, whet_step
from machine import write_result

NUM_STEPS, NUM_LAST = 200, 20
TOLERANCE = 0.01
REFERENCE = "AdamW, all in float32"
CONTROL = "AdamW on bfloat16 weights (control)"
WAYS: dict[str, dict[str, Any]] = {
    REFERENCE: {"dtype": "float32"},
    "float32 weights, products in bfloat16": {},
    "float32 masters, one pass a step": {"optim": {"master": "float32"}},
    "float32 masters, four passes a step": {"optim": {"master": "float32"}, "rows_per_pass": 1},
    "moments of 8 bits, weights rounded at random": {"optim": {"name": "adamw_8bit"}},
    CONTROL: {"optim": {"name": "adamw_8bit"}},
}


def learnable_rows(num_rows: int, vocabulary: int, *, seed: int, length: int = 24) -> Any:
    """Rows in which each token follows from the one before it in nine cases of ten; all but the first are taught."""
    from whet.types import TokenizedSample

    rng = np.random.default_rng(seed)
    successor = rng.permutation(vocabulary)
    samples = []
    for number in range(num_rows):
        ids = [int(rng.integers(3, vocabulary))]
        while len(ids) < length:
            ids.append(int(successor[ids[-1]] if rng.random() < 0.9 else rng.integers(3, vocabulary)))
        taught = np.arange(length) > 0
        samples.append(TokenizedSample(id=f"{number}", ids=np.array(ids, dtype=np.int32), taught=taught))
    return token_set(samples)


def last_loss(way: str, *, seed: int, num_steps: int) -> float:
    """Mean loss of the last steps, in nats per token."""
    job = {
        "shape": "toy", "adapter": {"method": "none"}, "dtype": "bfloat16", "device": "cpu", "rows_per_step": 4,
        "rows_per_pass": 4, "num_steps": num_steps, "seed": seed, "lr": 1e-3, **WAYS[way],
    }  # fmt: skip
    run = build(job, rows=learnable_rows(64, SHAPES["toy"].vocabulary, seed=seed))
    if way == CONTROL:
        named = run.trainables.named.values()
        run = replace(run, optimizer=torch.optim.AdamW(named, lr=1e-3, weight_decay=0.0, fused=True))
    step = whet_step(run)
    return float(np.mean([step(number) for number in range(num_steps)][-NUM_LAST:]))


def compare(seeds: range, num_steps: int) -> dict[str, Any]:
    """Every way's loss and its relative gap to the reference, seed by seed."""
    losses = {way: [last_loss(way, seed=seed, num_steps=num_steps) for seed in seeds] for way in WAYS}
    rows = {}
    for way, found in losses.items():
        gaps = [loss / reference - 1 for loss, reference in zip(found, losses[REFERENCE], strict=True)]
        mean = float(np.mean(gaps))
        rows[way] = {"last_losses": found, "relative_gaps": gaps, "mean_gap": mean, "passed": abs(mean) <= TOLERANCE}
        print(
            f"{way:48s} loss {np.mean(found):.4f}  gap {mean:+.2%} ({min(gaps):+.2%} to {max(gaps):+.2%})", flush=True
        )
    return {"seeds": list(seeds), "steps": num_steps, "tolerance": TOLERANCE, "ways": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, 20 steps; nothing is judged or written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = compare(range(1 if args.quick else args.seeds), NUM_LAST if args.quick else NUM_STEPS)
    if args.quick:
        return
    write_result("adam8bit_parity", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)
    if not all(row["passed"] for way, row in result["ways"].items() if way != CONTROL):
        raise SystemExit("further from float32 than the tolerance")


if __name__ == "__main__":
    main()
