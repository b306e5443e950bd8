"""One measured run of whet: `whet train` as a user types it, and what it wrote of itself.

Nothing of the training is built here, so that what is measured is what users run: the recipe is written to a file, one
process is started for each rank, and the figures are read from metrics.jsonl, summary.json and run_plan.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODULE = ("-m", "whet", "train")
RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def recipe_of(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe of a job, as YAML would have it; what it does not say is left to whet's defaults."""
    return {
        "name": "benchmark",
        "output": str(folder / "run"),
        "seed": job["seed"],
        "model": {"id": job["model"], "dtype": job["dtype"]},
        "adapter": job["adapter"],
        "data": job["data"],
        "batch": {"global_size": job["batch_rows"], **job.get("batch", {})},
        "optim": job["optim"],
        "train": {"device": "cpu", "epochs": 1, **job.get("train", {})},
    }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train every row once; the first step is not measured. JSON is YAML, so the recipe is written as JSON.

    `job["ranks"]` processes have `job["threads"]` threads each. Peak memory of several ranks is that of the first times
    their number.
    """
    ranks = job.get("ranks", 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = {"threads": job["threads"]} | job.get("train", {})
        recipe = recipe_of(job | {"train": train}, folder)
        (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        launcher = (*RANKS, str(ranks), *MODULE) if ranks > 1 else MODULE
        environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, *launcher, str(folder / "recipe.yaml")],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"whet train failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return read_run(folder / "run", ranks)


def read_run(folder: Path, ranks: int) -> dict[str, Any]:
    """What a finished run folder says: the keys that `trl_side.run` has too."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    plan = json.loads((folder / "run_plan.json").read_text(encoding="utf-8"))
    measured = steps[1:]
    return {
        "tokens_per_second": sum(s["num_tokens"] for s in measured) / sum(s["seconds"] for s in measured),
        "seconds_per_step": [s["seconds"] for s in measured],
        "communication_seconds": [s["communication_seconds"] for s in measured],
        "num_tokens": sum(s["num_tokens"] for s in steps),
        "losses": [s["loss"] for s in steps],
        "padding_share": 0.0,
        "num_trainable": summary["num_trainable"],
        "peak_memory_bytes": summary["peak_memory_bytes"] * ranks,
        "configuration": {"ranks": ranks, "plan": plan, "kernels": summary["kernels"]},
    }
