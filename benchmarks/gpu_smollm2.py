"""Claim: SmolLM2 of 135M, 360M and 1.7B parameters trains on one H200 as fast as its products and launches allow.

One call of under ten minutes on a machine with one GPU and nothing installed but torch, triton and transformers:

    pip install --no-index --find-links wheels peft accelerate pydantic
    PYTHONPATH=src python benchmarks/gpu_smollm2.py

Wheels to carry in `wheels`: peft, accelerate, pydantic, pydantic-core, annotated-types, typing-inspection,
typing-extensions, pyyaml, safetensors.

Random weights made on the device, rows with the lengths of GSM8K. For every size transformers with PEFT in padded
batches, LoRA of rank 8 and all weights (float32 masters). Small models wait for launches rather than for products: the
share of the peak says by how much. MFU by the formula in gpu_side.py. `--toy` does the same with a toy model on the CPU
and writes nothing.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from gpu_ladder import finish, run_ladder
from gpu_rungs import MODULES

SIZES = ("smollm2-135m", "smollm2-360m", "smollm2-1.7b")
LORA = {"adapter": {"rank": 8, "alpha": 16.0, "dropout": 0.05}}
PADDED = {"off": MODULES, "is_padded": True, "has_full_logits": True}
WAYS: dict[str, dict[str, Any]] = {
    "LoRA, transformers + PEFT, padded, full logits": {**LORA, **PADDED, "rows_per_pass": 8},
    "LoRA, whet": {**LORA, "rows_per_pass": 32},
    "LoRA, whet, shared prefix": {**LORA, "rows_per_pass": 32, "shares_prefix": True},
    "all weights, transformers, padded, full logits": {"adapter": {"method": "none"}, **PADDED, "rows_per_pass": 8},
    "all weights, whet, float32 masters": {
        "adapter": {"method": "none"}, "optim": {"master": "float32"}, "rows_per_pass": 32},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=540.0, help="rungs that do not fit are left out")
    parser.add_argument("--toy", action="store_true", help="a toy model on the CPU; nothing is written")
    args = parser.parse_args()
    started = time.monotonic()
    base = {
        "lengths": "gsm8k", "dtype": "bfloat16", "device": "cpu" if args.toy else "cuda", "rows_per_step": 64,
        "num_steps": 2 if args.toy else 8, "kind": "rung", "script": "gpu_rungs.py",
    }  # fmt: skip
    sizes = ("toy",) if args.toy else SIZES
    jobs = {f"{size}: {name}": base | way | {"shape": size} for size in sizes for name, way in WAYS.items()}
    first = base | LORA | {"shape": sizes[-1]}
    tokens = 64 if args.toy else 8192
    result = run_ladder(first, jobs, tokens_of_products=tokens, seconds=args.seconds)
    finish("gpu_smollm2", __doc__, result | {"seconds": time.monotonic() - started}, is_toy=args.toy)


if __name__ == "__main__":
    main()
