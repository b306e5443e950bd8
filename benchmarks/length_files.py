"""Makes benchmarks/lengths/*.json: how long the rows of a dataset are, and how much of each is taught. No text.

    WHET_TEST_DATA=FOLDER python benchmarks/length_files.py

Rows go through whet's own preparation with SmolLM2's tokenizer and chat template. Each file has the means over all rows
and, for benchmarks to draw from, [tokens, taught tokens] of up to 512 of them, evenly spaced in the order of lengths.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from whet.data.pipeline import prepare
from whet.models.tokenizer import load_tokenizer
from whet.recipe.schema import Data, Recipe, Source
from whet.types import TokenizedSet

FOLDER = Path(__file__).parent / "lengths"
NUM_SHOWN = 512
ROWS = {
    "gsm8k": ("gsm8k/train.jsonl", "gsm8k", "GSM8K, all training rows"),
    "fiqa": ("fiqa/fiqa_main_schema_333.jsonl", "fiqa", "FiQA, the 333 rows of explodinggradients/fiqa's main part"),
    "metamath": (
        "metamath/metamathqa_schema_from_backward.jsonl", "metamathqa",
        "613 rows in MetaMathQA's form made from MetaMath's GSM8K_Backward.jsonl: backward questions, which are longer "
        "than MetaMathQA's mean row",
    ),
}  # fmt: skip
"""name -> file under WHET_TEST_DATA, format, what it is"""


def describe(rows: TokenizedSet, origin: str) -> dict[str, Any]:
    """What a length file says."""
    order = np.lexsort((rows.num_taught, rows.lengths))
    shown = order[np.linspace(0, len(order) - 1, min(NUM_SHOWN, len(order))).round().astype(int)]
    return {
        "rows": origin,
        "tokenizer": "SmolLM2-135M-Instruct, its chat template",
        "num_rows": len(order),
        "mean_tokens": round(float(rows.lengths.mean()), 2),
        "mean_taught_tokens": round(float(rows.num_taught.mean()), 2),
        "shared_first_tokens": shared_first_tokens([sample.ids for sample in rows.samples]),
        "tokens_and_taught": [[int(rows.lengths[i]), int(rows.num_taught[i])] for i in shown],
    }


def shared_first_tokens(ids: list[np.ndarray]) -> int:
    """How many first tokens are the same in all rows."""
    shortest = min(map(len, ids))
    same = np.stack([each[:shortest] for each in ids])
    differs = (same != same[0]).any(0)
    return int(differs.argmax()) if differs.any() else shortest


def write_lengths(name: str, data_folder: Path) -> Path:
    """Read a dataset's rows and write its file."""
    file, row_format, origin = ROWS[name]
    source = Source(source=str(data_folder / file), format=row_format)
    data = Data(train=(source,), max_length=8192, max_dropped="100%", bad_rows="drop")
    recipe = Recipe(name="lengths", output="none", data=data)
    text_side = load_tokenizer(recipe.model)
    rows = prepare(recipe, text_side.tokenizer, end_ids=text_side.stop_ids, base_folder=Path.cwd()).train
    path = FOLDER / f"{name}.json"
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(describe(rows, origin), indent=1)
    path.write_text(text.replace("\n   ", " ").replace("\n  ]", " ]") + "\n", encoding="utf-8")
    return path


def main() -> None:
    for name in ROWS:
        print(f"written: {write_lengths(name, Path(os.environ['WHET_TEST_DATA']))}")


if __name__ == "__main__":
    main()
