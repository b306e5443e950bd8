"""Claims: full GSM8K is prepared in 30 s on two cores, every row accounted for; 150,000 tokens/s are made on one core.

Needs WHET_TEST_DATA with GSM8K's original files. `whet prepare` runs as users run it, in a process of its own, with an
empty token cache and then with the full one; the rate on one core is measured here with all other threads off.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import write_result

NUM_RUNS = 3
RECIPE = """\
name: gsm8k-data
output: {folder}/run
data:
  train: [{{source: {data}/train.jsonl}}]
evaluate:
  - {{name: gsm8k, source: {{source: {data}/test.jsonl, split: all}}}}
"""


def prepare_seconds(recipe: Path, cache: Path) -> tuple[float, list[dict[str, Any]]]:
    """Wall seconds of `whet prepare` and the sets of its ledger."""
    models = Path(os.environ.get("WHET_CACHE", Path.home() / ".cache" / "whet")) / "models"
    cache.mkdir(parents=True, exist_ok=True)
    if models.is_dir() and not (cache / "models").exists():
        (cache / "models").symlink_to(models)  # the model is not what is measured
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "whet", "prepare", str(recipe), "--output", str(cache / "out")],
        env=os.environ | {"WHET_CACHE": str(cache)}, check=True, capture_output=True,
    )  # fmt: skip
    return time.monotonic() - started, json.loads((cache / "out" / "ledger.json").read_text())["sets"]


def one_core_rates(data: Path) -> dict[str, float]:
    """Tokens per second on one core: rendering and encoding alone, and with every check of every sample."""
    from whet.data import templates
    from whet.data.sources import BadRow, open_source
    from whet.data.tokenize import tokenize_stream
    from whet.models.tokenizer import load_tokenizer
    from whet.recipe.schema import Data, Model, Source

    loaded = load_tokenizer(Model())
    source = Source(source=str(data / "train.jsonl"))
    examples = [
        row for row in open_source(source, seed=0, base_folder=Path.cwd()).read() if not isinstance(row, BadRow)
    ]
    template = templates.template_for(loaded.tokenizer, Data(train=(source,)), loaded.stop_ids)
    templates.render_many(template, examples[:8])  # starts the child process

    def bare() -> int:
        pieces = templates.encode(template, templates.render_many(template, examples))  # type: ignore[arg-type]
        return sum(len(each[-1]) for each in pieces)

    def checked() -> int:
        found = tokenize_stream(template, examples, max_length=4096, over_length="error")
        return sum(each.sample.num_tokens for each in found if each.sample)

    rates = {}
    for name, make in (("tokenized", bare), ("tokenized_and_checked", checked)):
        runs = []
        for _ in range(NUM_RUNS):
            started = time.monotonic()
            runs.append(make() / (time.monotonic() - started))
        rates[name] = statistics.median(runs)
    return rates


def packing(data: Path) -> dict[str, float]:
    """Padding that batches would have, and how full packs are."""
    import numpy as np

    from whet.data.pack_plan import plan_packs
    from whet.data.packing import padding_share
    from whet.data.pipeline import prepare
    from whet.data.sampler import epoch_order
    from whet.models.tokenizer import load_tokenizer
    from whet.recipe.schema import Data, Model, Recipe, Source

    loaded = load_tokenizer(Model())
    rows = Data(train=(Source(source=str(data / "train.jsonl")),))
    recipe = Recipe(name="packing", output="packing", data=rows)
    lengths = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd()).train.lengths
    shuffled = lengths[epoch_order(len(lengths), seed=0, epoch=0)]
    found = {f"padding_at_batch_{n}": padding_share(shuffled, n) for n in (4, 8, 32)}
    for capacity in (1024, 2048, 4096):
        packs = plan_packs(lengths, capacity)
        found[f"efficiency_of_packs_of_{capacity}"] = float(np.sum(lengths) / (len(packs) * capacity))
    return found


def main() -> None:
    data = Path(os.environ["WHET_TEST_DATA"]) / "gsm8k"
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(folder=folder, data=data))
        cold = [prepare_seconds(recipe, folder / f"cache-{i}") for i in range(NUM_RUNS)]
        warm = [prepare_seconds(recipe, folder / "cache-0")[0] for _ in range(NUM_RUNS)]
    sets = cold[0][1]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    write_result(
        "data_path",
        claim="GSM8K in 30 s on two cores with 0 rows unaccounted; 150,000 tokens/s tokenized on one core",
        result={
            "rows": {each["name"]: each["num_rows"] for each in sets},
            "rows_unaccounted": sum(each["num_rows"] - sum(each["counts"].values()) for each in sets),
            "prepare_seconds": [round(seconds, 2) for seconds, _ in cold],
            "prepare_seconds_from_cache": [round(seconds, 2) for seconds in warm],
            "tokens_per_second_on_one_core": {name: round(rate) for name, rate in one_core_rates(data).items()},
            "packing": {name: round(share, 4) for name, share in packing(data).items()},
        },
    )


if __name__ == "__main__":
    main()
