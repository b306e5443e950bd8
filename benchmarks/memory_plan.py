"""Claim: the memory that a run predicts before it trains is within 20 % of the peak that it reaches.

SmolLM2 on rows of seeded random words, the lengths of GSM8K's (or four times as long). Each configuration is one epoch
of a few steps through `run_recipe` in a process of its own, on one thread, with freed memory kept as the command does.

    python benchmarks/memory_plan.py [NAME ...]     all configurations, or some
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import write_result

NUM_STEPS = 3
SENTENCE = "seven apples cost less than nine pears so we add both and divide what is left among the three children"
RECIPE = """\
name: memory
output: {folder}/run
data: {{train: [{{source: {folder}/rows.jsonl}}], max_length: 4096}}
tracking: []
"""
LORA = ("adapter.rank=8", "adapter.alpha=16")
FLOAT32 = (*LORA, "model.dtype=float32")
ALL = ("adapter.method=none", "optim.lr=2e-5")
# name -> (samples of a pass, words of a row, overrides)
CONFIGURATIONS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "lora bf16, 2 samples": (2, 140, LORA),
    "lora bf16, 4 samples": (4, 140, LORA),
    "lora bf16, 8 samples": (8, 140, LORA),
    "lora bf16, 16 samples": (16, 140, LORA),
    "lora bf16, 8 samples, dropout": (8, 140, (*LORA, "adapter.dropout=0.05")),
    "lora bf16, 8 samples, recompute norms": (8, 140, (*LORA, "train.recompute=norms")),
    "lora bf16, 8 samples, recompute mlp": (8, 140, (*LORA, "train.recompute=mlp")),
    "lora bf16, 8 samples, recompute full": (8, 140, (*LORA, "train.recompute=full")),
    "lora bf16, 4 long samples": (4, 560, LORA),
    "lora float32, 4 samples": (4, 140, FLOAT32),
    "dora bf16, 4 samples": (4, 140, (*LORA, "adapter.method=dora")),
    "all weights bf16, 4 samples": (4, 140, ALL),
    "all weights bf16, 4 samples, recompute full": (4, 140, (*ALL, "train.recompute=full")),
    "all weights float32, 4 samples": (4, 140, (*ALL, "model.dtype=float32")),
}


def write_rows(path: Path, *, num_rows: int, num_words: int) -> None:
    """Questions and answers of `num_words` words together on average."""
    rng, words = random.Random(0), SENTENCE.split()
    with path.open("w", encoding="utf-8") as out:
        for number in range(num_rows):
            question, answer = (" ".join(rng.choices(words, k=rng.randint(num_words // 4, 3 * num_words // 4)))
                                for _ in range(2))  # fmt: skip
            out.write(json.dumps({"prompt": f"{number}: {question}?", "completion": answer}) + "\n")


def run_child(folder: Path, micro: int, overrides: tuple[str, ...]) -> None:
    """One run in this process; its plan and summary are in its folder."""
    from whet.allocator import keep_freed_memory
    from whet.recipe import load_recipe
    from whet.train.run import Options, run_recipe

    keep_freed_memory()
    changes = (f"batch.global_size={micro}", f"batch.micro_size={micro}", "train.threads=1", *overrides)
    run_recipe(load_recipe(folder / "recipe.yaml", changes), Options(say=lambda _: None))


def measure(micro: int, num_words: int, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Predicted and measured peak of one configuration."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
        write_rows(folder / "rows.jsonl", num_rows=NUM_STEPS * micro, num_words=num_words)
        subprocess.run(
            [sys.executable, __file__, "--child", str(folder), str(micro), *overrides],
            check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        summary = json.loads((folder / "run" / "summary.json").read_text())
        plan = json.loads((folder / "run" / "run_plan.json").read_text())
    predicted, peak = summary["predicted_memory_bytes"], summary["peak_memory_bytes"]
    return {
        "samples_per_pass": micro,
        "tokens_per_pass": round(summary["tokens"] / NUM_STEPS),
        "recompute": plan["recompute"],
        "predicted_bytes": predicted,
        "peak_bytes": peak,
        "predicted_over_peak": round(predicted / peak, 3),
    }


def main(names: list[str]) -> None:
    """Measure and write the result file."""
    rows = {}
    for name in names or CONFIGURATIONS:
        rows[name] = row = measure(*CONFIGURATIONS[name])
        print(f"{name:<46} {row['tokens_per_pass']:>6,} tokens  predicted {row['predicted_bytes'] / 1e9:5.2f} GB  "
              f"peak {row['peak_bytes'] / 1e9:5.2f} GB  {row['predicted_over_peak']:5.2f}", flush=True)  # fmt: skip
    worst = max(abs(row["predicted_over_peak"] - 1) for row in rows.values())
    write_result(
        "memory_plan",
        claim="the peak memory that a run predicts is within 20 % of the one it reaches",
        result={"worst_relative_error": round(worst, 3), "configurations": rows},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(Path(sys.argv[2]), int(sys.argv[3]), tuple(sys.argv[4:]))
    else:
        main(sys.argv[1:])
