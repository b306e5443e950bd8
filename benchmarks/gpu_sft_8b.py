"""Claim: one H200 trains all weights of Llama-3.1-8B at 14,000 real tokens per second, with exact float32 masters.

One call of under ten minutes on a machine with one GPU and nothing installed but torch, triton and transformers:

    pip install --no-index --find-links wheels peft accelerate pydantic
    PYTHONPATH=src python benchmarks/gpu_sft_8b.py

Wheels to carry in `wheels`: peft, accelerate, pydantic, pydantic-core, annotated-types, typing-inspection,
typing-extensions, pyyaml, safetensors. TRL is not compared: float32 weights with Adam's moments do not fit on the card.

Random weights made on the device, rows with the lengths of benchmarks/lengths. First one layer at full width against
float32, then the products alone, then 16 bytes per parameter (bfloat16 weights and gradients, float32 masters and
moments) and 6 (moments of 8 bits, weights rounded at random). With 16 bytes a step is one pass, so that gradients are
never added up in bfloat16. MFU by the formula in gpu_side.py. `--toy` does the same with a toy model on the CPU and
writes nothing.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from gpu_ladder import finish, run_ladder

MASTERS = {"optim": {"master": "float32"}}
EIGHT_BIT = {"optim": {"name": "adamw_8bit"}}
RUNGS: dict[str, dict[str, Any]] = {
    "float32 masters, all made anew, one pass a step": {**MASTERS, "recompute": "full", "rows_per_pass": 48},
    "float32 masters, all made anew, 24 rows a pass": {**MASTERS, "recompute": "full", "rows_per_pass": 24},
    "moments of 8 bits, nothing made anew": {**EIGHT_BIT, "rows_per_pass": 16},
    "moments of 8 bits, norms and feed-forward parts made anew": {
        **EIGHT_BIT, "recompute": "mlp", "rows_per_pass": 48},
    "moments of 8 bits, the planner's choice within 80 GB": {
        **EIGHT_BIT, "recompute": "auto", "rows_per_pass": "auto", "memory_gb": 80},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="gsm8k", choices=("metamath", "gsm8k", "fiqa"))
    parser.add_argument("--seconds", type=float, default=540.0, help="rungs that do not fit are left out")
    parser.add_argument("--toy", action="store_true", help="a toy model on the CPU; nothing is written")
    args = parser.parse_args()
    started = time.monotonic()
    base = {
        "shape": "toy" if args.toy else "llama-3.1-8b", "lengths": args.lengths, "adapter": {"method": "none"},
        "dtype": "bfloat16", "device": "cpu" if args.toy else "cuda", "rows_per_step": 48,
        "num_steps": 2 if args.toy else 5, "kind": "rung", "script": "gpu_rungs.py",
    }  # fmt: skip
    jobs = {name: base | change for name, change in RUNGS.items()}
    tokens = 64 if args.toy else 8192
    result = run_ladder(base | MASTERS, jobs, tokens_of_products=tokens, seconds=args.seconds)
    finish("gpu_sft_8b", __doc__, result | {"seconds": time.monotonic() - started}, is_toy=args.toy)


if __name__ == "__main__":
    main()
