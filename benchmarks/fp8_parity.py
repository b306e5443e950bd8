"""Claim: LoRA over a base in float8 ends within 0.5 % of the evaluation loss of LoRA over the same base in bfloat16.

SmolLM2-135M-Instruct on GSM8K (WHET_TEST_DATA; generated arithmetic without it), LoRA rank 8 on all linear layers with
dropout. A seed decides the start of the adapter, the order of the samples and the dropout masks: both runs of a pair
have all three in common. Float8 is emulated on CPUs with the scales and the rounding of the real products.

Held-out rows are scored twice: by the run itself over its own base, at --every steps and at the end, and after it with
the adapter merged into the base as it is, in float32, which is what is exported. The gate asks it of every pair, both
ways. Finished runs in --folder are only read, so that the command can be given again after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from machine import write_result
from study_rows import sources
from whet.data.pipeline import prepare
from whet.evaluation.likelihood import sample_likelihoods
from whet.inference.tuned import load_tuned
from whet.kernels import attention
from whet.models.load import load_pretrained
from whet.models.tokenizer import load_tokenizer
from whet.recipe import load_recipe
from whet.recipe.schema import Model
from whet.train.run import Options, run_recipe

ROOT = Path(__file__).parents[1]
BOUND = 0.005
"""largest relative difference of a pair's evaluation losses"""
BASES = {"bfloat16": "none", "float8": "fp8"}
"""name -> model.quantize"""


def recipe(base: str, seed: int, output: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The same run for both bases but for `model.quantize`."""
    train, validation = sources(args)
    return {
        "name": f"{base}, seed {seed}",
        "output": str(output),
        "seed": seed,
        "model": {"id": args.model, "dtype": "bfloat16", "quantize": BASES[base]},
        "adapter": {"rank": 8, "alpha": 16, "dropout": 0.05},
        # a share of GSM8K's rows is longer than 256 tokens; the same ones are left out everywhere
        "data": {"train": [train], "validation": [validation], "max_length": 256, "max_dropped": "50%"},
        "batch": {"global_size": args.batch, "micro_size": args.batch},
        "optim": {"lr": args.lr, "schedule": "linear", "warmup": 0.05},
        "train": {
            "max_steps": args.steps, "eval_every": args.every, "save_every": args.steps, "keep": 1,
            "device": args.device, "threads": args.threads,
        },
        "tracking": [],
    }  # fmt: skip


def run_one(base: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one run, or read it where it is finished; score its adapter over the base as it is."""
    output, path = args.folder / f"{base}-{seed}", args.folder / f"{base}-{seed}.yaml"
    args.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe(base, seed, output, args), indent=1), encoding="utf-8")
    run_recipe(load_recipe(path), Options(say=lambda _: None))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    validation = {line["step"]: line["loss"] for line in lines if line["kind"] == "eval"}
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return {
        "base": base,
        "seed": seed,
        "frozen_base": summary["kernels"].get("frozen base", "bfloat16"),
        "batch_hashes": [line["batch_hash"] for line in steps],
        "training_loss": [line["loss"] for line in steps],
        "grad_norm": [line["grad_norm"] for line in steps],
        "validation_loss": validation,
        "final_validation_loss": validation[max(validation)],
        "exported_validation_loss": exported_loss(path, output, args),
        "median_tokens_per_second": statistics.median(line["tokens_per_second"] for line in steps),
    }


def exported_loss(path: Path, output: Path, args: argparse.Namespace) -> float:
    """Mean loss of the taught validation tokens, with the adapter merged into the unrounded base, in float32."""
    written = load_recipe(path)
    text = load_tokenizer(written.model)
    data = prepare(written, text.tokenizer, end_ids=text.stop_ids, base_folder=Path.cwd(), say=lambda _: None)
    assert data.validation is not None
    loaded = load_pretrained(Model(id=args.model, dtype="float32"), device=torch.device("cpu"))
    attention.install(loaded.model)
    load_tuned(loaded, output)
    found = [each for each in sample_likelihoods(loaded, list(data.validation.samples)) if each is not None]
    return math.fsum(each.nll for each in found) / sum(each.num_tokens for each in found)


def compare(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Each pair's relative differences, the spread over seeds beside them, and whether all are within the bound."""
    by_run = {(run["base"], run["seed"]): run for run in runs}
    pairs = []
    for seed in dict.fromkeys(run["seed"] for run in runs):
        exact, rounded = by_run["bfloat16", seed], by_run["float8", seed]
        pairs.append(
            {
                "seed": seed,
                "has_same_rows": exact["batch_hashes"] == rounded["batch_hashes"],
                **{kind: rounded[kind] / exact[kind] - 1 for kind in
                   ("final_validation_loss", "exported_validation_loss")},
                "largest_training_loss_difference": max(
                    abs(a - b) for a, b in zip(exact["training_loss"], rounded["training_loss"], strict=True)
                ),
            }
        )  # fmt: skip
    largest = max(abs(pair[kind]) for pair in pairs for kind in ("final_validation_loss", "exported_validation_loss"))
    final = [by_run["bfloat16", pair["seed"]]["final_validation_loss"] for pair in pairs]
    return {
        "relative_differences": pairs,
        "largest_relative_difference": largest,
        "bound": BOUND,
        "holds": largest <= BOUND and all(pair["has_same_rows"] for pair in pairs),
        "relative_spread_of_bfloat16_over_seeds": (max(final) - min(final)) / statistics.fmean(final),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--batch", type=int, default=3, help="rows of a step")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--validation-rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "fp8_parity")
    parser.add_argument("--quick", action="store_true", help="one seed, 4 steps, 4 rows: whether it runs at all")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps, args.every, args.validation_rows, args.threads = args.seeds[:1], 4, 2, 4, 1
    runs = []
    for seed in args.seeds:
        for base in BASES:
            runs.append(found := run_one(base, seed, args))
            print(
                f"{base:9} seed {seed:3}  evaluation loss {found['final_validation_loss']:.4f}, exported "
                f"{found['exported_validation_loss']:.4f}  {found['median_tokens_per_second']:.0f} tokens/s",
                flush=True,
            )
    compared = compare(runs)
    print(f"largest relative difference {compared['largest_relative_difference']:.2%} (bound {BOUND:.1%})")
    settings = {key: value for key, value in vars(args).items() if key not in ("folder", "model")}
    rows = "GSM8K" if os.environ.get("WHET_TEST_DATA") else "generated arithmetic"
    claim = __doc__.splitlines()[0].removeprefix("Claim: ")
    result = {"model": Path(args.model).name, "rows": rows, "settings": settings, **compared, "runs": runs}
    write_result("fp8_parity", claim=claim, result=result)
    sys.exit(0 if compared["holds"] else 8)


if __name__ == "__main__":
    main()
