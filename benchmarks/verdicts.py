"""Claim: FiQA's recipe and a short run on GSM8K, on SmolLM2-135M: better, worse, or not distinguishable.

    WHET_TEST_DATA=... python benchmarks/verdicts.py

Trains verdicts/fiqa.yaml and verdicts/gsm8k.yaml, lets base and tuned answer, and collects the comparisons as they are:
there is no verdict to reach. A run that is finished is not trained again, and answers of the same code are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import write_result

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "benchmarks" / "verdicts"
SUMMARY_KEYS = ("steps", "seconds", "tokens_per_second", "last_train_loss", "best_validation_loss", "num_trainable")


def study(name: str, folder: Path, data: Path, max_rows: int | None) -> dict[str, Any]:
    """One recipe, trained and evaluated in processes of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    # rows are named relative to the folder of the test data
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    for part in ("fiqa/", "gsm8k/", "dolly/"):
        text = text.replace(f"source: {part}", f"source: {data.resolve()}/{part}")
    recipe = folder / f"{name}.yaml"
    recipe.write_text(text, encoding="utf-8")
    run = folder / name
    limit = [] if max_rows is None else ["--max-rows", str(max_rows)]
    for command in (["train", str(recipe), f"output={run}", "--no-evaluate"], ["evaluate", str(run), *limit]):
        subprocess.run([sys.executable, "-m", "whet", *command], cwd=ROOT, check=True)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {
        "training": {key: summary.get(key) for key in SUMMARY_KEYS},
        "comparisons": {
            path.parent.name: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((run / "evaluations").glob("*/comparison.json"))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "verdicts")
    parser.add_argument("--max-rows", type=int, default=640, help="of each evaluation set, the first ones")
    args = parser.parse_args()
    data = Path(os.environ["WHET_TEST_DATA"])
    result = {name: study(name, args.folder, data, args.max_rows) for name in ("fiqa", "gsm8k")}
    for name, each in result.items():
        for dataset, comparison in each["comparisons"].items():
            print(f"{name}, {dataset}: {comparison['verdict']}. {comparison['sentences'][0]}")
    claim = (__doc__ or "").splitlines()[0].removeprefix("Claim: ")
    write_result("verdicts", claim=claim, result={"max_rows": args.max_rows, **result})


if __name__ == "__main__":
    main()
