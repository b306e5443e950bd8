"""Claim: computing what the samples of a pass begin with once saves 5 to 11 % of the tokens (4 to 64 samples a pass).

Rows under WHET_TEST_DATA with SmolLM2's tokenizer, as recipes put them: its chat template, a system message of one's
own, or a plain prompt. Tokens of all passes of the first epoch are counted as they are packed; nothing is computed.

    WHET_TEST_DATA=FOLDER python benchmarks/shared_prefix.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from machine import write_result
from whet.data.packing import pack
from whet.data.pipeline import prepare
from whet.data.sampler import order_of
from whet.models.tokenizer import load_tokenizer
from whet.recipe.resolve import resolve
from whet.recipe.schema import Batch, Data, Recipe, Source

PASSES = (2, 4, 16, 64)
"""samples of a pass"""
ADVISER = (
    "You are a helpful financial assistant. Provide comprehensive, detailed answers to financial questions. "
    "Include relevant context, examples, and explanations when appropriate."
)
GSM8K, METAMATH, FIQA = (
    ("gsm8k/train.jsonl", "gsm8k"),
    ("metamath/metamathqa_schema_from_backward.jsonl", "metamathqa"),
    ("fiqa/fiqa_main_schema_333.jsonl", "fiqa"),
)
"""file under WHET_TEST_DATA and format"""
# name -> (rows, system message, plain prompt)
CASES: dict[str, tuple[tuple[tuple[str, str], ...], str | None, str | None]] = {
    "GSM8K, chat": ((GSM8K,), None, None),
    "MetaMathQA, chat": ((METAMATH,), None, None),
    "MetaMathQA, plain prompt": ((METAMATH,), None, "metamath"),
    "FiQA, chat": ((FIQA,), None, None),
    "FiQA, chat with its project's system message": ((FIQA,), ADVISER, None),
    "FiQA, plain prompt": ((FIQA,), None, "fiqa"),
    "GSM8K and FiQA, chat": ((GSM8K, FIQA), None, None),
}


def recipe_of(name: str, folder: Path, micro_size: int) -> Recipe:
    """The recipe of a case with so many samples a pass."""
    rows, system, prompt = CASES[name]
    sources = tuple(Source(source=str(folder / file), format=form, system=system) for file, form in rows)  # type: ignore[arg-type]
    return Recipe(
        name="shared-prefix",
        output="none",
        data=Data(
            train=sources, max_length=4096, max_dropped="100%", bad_rows="drop", prompt=prompt,
            template="plain" if prompt else "chat",
        ),
        batch=Batch(global_size=64, micro_size=micro_size),
    )  # fmt: skip


def count(name: str, folder: Path) -> dict[str, Any]:
    """Tokens of an epoch, and how many of them are computed with passes of each size."""
    recipe = recipe_of(name, folder, PASSES[0])
    text_side = load_tokenizer(recipe.model)
    train = prepare(recipe, text_side.tokenizer, end_ids=text_side.stop_ids, base_folder=Path.cwd()).train
    order = order_of(recipe, train)
    computed = {}
    for micro_size in PASSES:
        plan = resolve(recipe_of(name, folder, micro_size), world_size=1, num_samples=order.num_units)
        passes = (each for step in range(plan.steps_per_epoch) for each in order.step(plan, step).passes)
        batches = (pack([train.samples[i] for i in each], share_prefix=True) for each in passes)
        computed[str(micro_size)] = sum(len(batch.ids_T) for batch in batches)
    num_tokens = int(train.lengths.sum())
    return {
        "num_samples": len(train.samples),
        "num_tokens": num_tokens,
        "tokens_that_all_begin_with": order.shared_prefix,
        "computed_tokens_by_samples_of_a_pass": computed,
        "saved_share_by_samples_of_a_pass": {size: round(1 - n / num_tokens, 4) for size, n in computed.items()},
    }


def main() -> None:
    folder = Path(os.environ["WHET_TEST_DATA"])
    counted = {name: count(name, folder) for name in CASES}
    for name, figures in counted.items():
        shares = "  ".join(f"{size}: {x:.1%}" for size, x in figures["saved_share_by_samples_of_a_pass"].items())
        print(f"{name}: {figures['tokens_that_all_begin_with']} tokens shared; saved {shares}")
    claim = (__doc__ or "").split("\n", 1)[0].removeprefix("Claim: ").rstrip(".")
    write_result("shared_prefix", claim=claim, result={"num_runs": 1, "sets": counted})


if __name__ == "__main__":
    main()
