"""Claim: spectral refactoring, exact or balanced, changes the final validation loss of a LoRA fine-tune by this much.

SmolLM2-135M-Instruct on GSM8K (WHET_TEST_DATA; generated arithmetic without it), LoRA rank 8 on all linear layers.
Plain, exact every 10 steps, balanced every 10 steps; each with the same seeds, so that differences are paired: a seed
decides the start of the adapter and the order of samples. One process per run; a finished run is only read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import t as student_t

from machine import write_result
from study_rows import sources

ROOT = Path(__file__).parents[1]
LEVEL = 0.95
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "exact": [{"name": "spectral", "mode": "exact"}],
    "balanced": [{"name": "spectral", "mode": "balanced"}],
    "exact, second moments kept": [{"name": "spectral", "mode": "exact", "second_moments": "keep"}],
    "exact, Adam anew": [{"name": "spectral", "mode": "exact", "second_moments": "clear"}],
}


def recipe(variant: str, seed: int, output: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The same run for every variant but for its callbacks."""
    train, validation = sources(args)
    return {
        "name": f"{variant}, seed {seed}",
        "output": str(output),
        "seed": seed,
        "model": {"id": "smollm2-135m-instruct"},
        "adapter": {"rank": 8, "alpha": 16},
        # a share of GSM8K's rows is longer than 256 tokens; the same ones are left out everywhere
        "data": {"train": [train], "validation": [validation], "max_length": 256, "max_dropped": "50%"},
        "batch": {"global_size": args.batch, "micro_size": 4},
        "optim": {"lr": args.lr, "schedule": "linear", "warmup": 0.05},
        "train": {
            "max_steps": args.steps, "eval_every": args.every, "save_every": args.steps, "keep": 1,
            "device": args.device, "threads": args.threads,
        },
        "callbacks": [callback | {"every": args.every} for callback in VARIANTS[variant]],
        "tracking": [],
    }  # fmt: skip


def run_one(variant: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one run in a process of its own and read its losses and events back."""
    name = f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
    output, path = args.folder / name, args.folder / f"{name}.yaml"
    args.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe(variant, seed, output, args)), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "whet", "train", str(path)], cwd=ROOT, check=True)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "variant": variant,
        "seed": seed,
        "validation_loss": {line["step"]: line["loss"] for line in lines if line["kind"] == "eval"},
        "training_loss": [line["loss"] for line in lines if line["kind"] == "step"],
        "training_seconds": sum(line["seconds"] for line in lines if line["kind"] == "step"),
        "refactorings": [line["text"] for line in lines if line["kind"] == "event" and "spectral" in line["text"]],
    }


def interval(numbers: list[float]) -> dict[str, float | None]:
    """Mean with Student's interval; no interval of a single number."""
    mean = statistics.fmean(numbers)
    if len(numbers) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(student_t.ppf((1 + LEVEL) / 2, len(numbers) - 1)) * statistics.stdev(numbers) / math.sqrt(len(numbers))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Per variant the final validation loss over the seeds, and its difference from plain, seed by seed."""
    final = {
        (run["variant"], run["seed"]): run["validation_loss"][max(run["validation_loss"], key=int)] for run in runs
    }
    variants, seeds = list(dict.fromkeys(v for v, _ in final)), sorted({seed for _, seed in final})
    return {
        "final_validation_loss": {v: interval([final[v, s] for s in seeds]) for v in variants},
        "difference_from_plain": {
            v: interval([final[v, s] - final["plain", s] for s in seeds]) for v in variants if v != "plain"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["plain", "exact", "balanced"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--validation-rows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="runs side by side, each with its threads")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "spectral_study")
    args = parser.parse_args()
    order = [(variant, seed) for seed in args.seeds for variant in args.variants]
    with ThreadPoolExecutor(max_workers=args.workers) as pool:
        runs = list(pool.map(lambda one: run_one(*one, args), order))
    summary = summarise(runs)
    for name, group in summary.items():
        for variant, found in group.items():
            spread = "" if found["low"] is None else f"  ({LEVEL:.0%}: {found['low']:.4f} to {found['high']:.4f})"
            print(f"{name:24} {variant:27} {found['mean']:.4f}{spread}")
    settings = {key: value for key, value in vars(args).items() if key != "folder"}
    rows = "GSM8K" if os.environ.get("WHET_TEST_DATA") else "generated arithmetic"
    claim = __doc__.splitlines()[0].removeprefix("Claim: ")
    write_result(
        "spectral_study",
        claim=claim,
        result={"rows": rows, "settings": settings, "interval_level": LEVEL, **summary, "runs": runs},
    )


if __name__ == "__main__":
    main()
