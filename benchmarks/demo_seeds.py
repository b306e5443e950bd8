"""Claim: the demo's tuned model beats its base on the main task, paired 95 % interval above zero, for every seed tried.

Runs `whet train recipes/demo.yaml` once per seed, each in a process of its own, and collects both comparisons, time
and memory. The seed changes the rows, the adapter's first values and the order of samples.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import write_result

ROOT = Path(__file__).parents[1]
DATASETS = ("word_sequence_reversal", "chain_sum")


def run_seed(seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """One demo run; a folder with a finished run of the same recipe is only read."""
    command = [
        sys.executable,
        "-m",
        "whet",
        "train",
        "recipes/demo.yaml",
        f"seed={seed}",
        f"output={folder}",
        *overrides,
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    comparisons = {
        name: json.loads((folder / "evaluations" / name / "comparison.json").read_text(encoding="utf-8"))
        for name in DATASETS
    }
    answers = [
        json.loads((folder / "evaluations" / name / f"{model}.summary.json").read_text(encoding="utf-8"))
        for name in DATASETS
        for model in ("base", "tuned")
    ]
    return {
        "seed": seed,
        "training_seconds": summary["seconds"],
        "answering_seconds": sum(a["seconds"] for a in answers),
        "steps": summary["steps"],
        "tokens_per_second": summary["tokens_per_second"],
        "training_peak_memory_bytes": summary["peak_memory_bytes"],
        "comparisons": comparisons,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "demo_seeds")
    parser.add_argument("overrides", nargs="*", help="recipe settings, KEY=VALUE")
    args = parser.parse_args()
    runs = [run_seed(seed, args.folder / f"seed-{seed}", args.overrides) for seed in args.seeds]
    for run in runs:
        for name, comparison in run["comparisons"].items():
            print(f"seed {run['seed']}  {name}: {comparison['verdict']}. {comparison['sentences'][0]}")
    write_result("demo_seeds", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result={"runs": runs})


if __name__ == "__main__":
    main()
