"""Claim: one H200 trains LoRA on Llama-3.1-8B at 18,000 real tokens per second in at most 34 GB, in bfloat16.

One call of under ten minutes on a machine with one GPU and nothing installed but torch, triton and transformers:

    pip install --no-index --find-links wheels peft trl accelerate datasets pyarrow liger-kernel pydantic-core pydantic
    PYTHONPATH=src python benchmarks/gpu_lora_8b.py

Wheels to carry in `wheels` (64 MiB at most; the last four are for TRL's rungs alone, which are left out without them):
peft, accelerate, pydantic, pydantic-core, annotated-types, typing-inspection, typing-extensions, pyyaml, safetensors;
trl, datasets with pyarrow (45 MB), dill, multiprocess, xxhash, fsspec and pandas, liger-kernel.

Rank 32 on all linear layers, dropout 0.05, random weights made on the device, rows with the lengths of
benchmarks/lengths. First one layer at full width against float32, then the products of the frozen weights alone, then
rungs from transformers with PEFT to all of whet, then TRL. Each is a process of its own; where memory runs out, passes
are halved. Tokens are those of the rows, without padding; MFU by the formula in gpu_side.py. `--toy` does the same with
a toy model on the CPU and writes nothing.
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from typing import Any

from gpu_ladder import finish, run_ladder
from gpu_rungs import MODULES

ADAPTER = {"rank": 32, "alpha": 64.0, "dropout": 0.05}
FLOAT8 = {"quantize": "fp8"}
RUNGS: dict[str, dict[str, Any]] = {
    "transformers + PEFT, padded, full logits": {
        "off": MODULES, "is_padded": True, "has_full_logits": True, "rows_per_pass": 8},
    "+ no padding, attention of all documents in one": {"off": MODULES, "has_full_logits": True, "rows_per_pass": 8},
    "+ fused functions": {"has_full_logits": True, "rows_per_pass": 8},
    "+ loss head on taught positions": {"rows_per_pass": 16},
    "+ shared prefix": {"rows_per_pass": 16, "shares_prefix": True},
    "+ float8 base": {"rows_per_pass": 16, "shares_prefix": True, **FLOAT8},
    "float8 base, no shared prefix": {"rows_per_pass": 16, **FLOAT8},
    "bfloat16, the planner's choice within 34 GB": {"rows_per_pass": "auto", "recompute": "auto", "memory_gb": 34},
    "lean: float8, all made anew, within 16 GB": {
        "rows_per_pass": "auto", "recompute": "full", "memory_gb": 16, "shares_prefix": True, **FLOAT8},
}  # fmt: skip


def jobs(base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rungs of whet, and TRL's where it is installed."""
    found = {name: base | {"kind": "rung", "script": "gpu_rungs.py"} | change for name, change in RUNGS.items()}
    if find_spec("trl") and find_spec("datasets"):
        trl = base | {"kind": "trl", "script": "gpu_trl.py", "rows_per_pass": 8}
        found["TRL + PEFT, padded"] = trl
        if find_spec("liger_kernel") and base["device"] == "cuda":
            found["TRL + PEFT + liger-kernel, padded"] = trl | {"uses_liger": True}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="metamath", choices=("metamath", "gsm8k", "fiqa"))
    parser.add_argument("--seconds", type=float, default=540.0, help="rungs that do not fit are left out")
    parser.add_argument("--toy", action="store_true", help="a toy model on the CPU; nothing is written")
    args = parser.parse_args()
    started = time.monotonic()
    base = {
        "shape": "toy" if args.toy else "llama-3.1-8b", "lengths": args.lengths, "adapter": ADAPTER,
        "dtype": "bfloat16", "device": "cpu" if args.toy else "cuda", "rows_per_step": 16 if args.toy else 64,
        "num_steps": 2 if args.toy else 5,
    }  # fmt: skip
    result = run_ladder(base, jobs(base), tokens_of_products=64 if args.toy else 8192, seconds=args.seconds)
    finish("gpu_lora_8b", __doc__, result | {"seconds": time.monotonic() - started}, is_toy=args.toy)


if __name__ == "__main__":
    main()
