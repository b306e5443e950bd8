"""Rows for the notebooks: real ones out of the folder WHET_TEST_DATA, or generated ones in the same schema.

The generated ones are small sums in the words of each dataset, so that a notebook runs where no dataset is at hand.
They show the way and prove nothing about the dataset.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

REAL = {
    "dolly": ("dolly/dolly_short_pairs.jsonl", "dolly/dolly_short_pairs.jsonl"),
    "squad": ("squad/squad_v1.1_dev_1000.jsonl", "squad/squad_v1.1_dev_1000.jsonl"),
    "fiqa": ("fiqa/fiqa_main_schema_333.jsonl", "fiqa/fiqa_main_schema_333.jsonl"),
    "gsm8k": ("gsm8k/train.jsonl", "gsm8k/test.jsonl"),
}
"""dataset -> (file that is trained on, file that is held out); of one and the same file the end is held out"""


def write_rows(dataset: str, folder: str | Path, *, num_train: int = 200, num_held_out: int = 20) -> str:
    """Write train.jsonl, validation.jsonl and test.jsonl into `folder`; returns where the rows come from."""
    data = os.environ.get("WHET_TEST_DATA")
    if data:
        train, held_out = (read_lines(Path(data) / name) for name in REAL[dataset])
        held_out = held_out[-2 * num_held_out :]
        source = f"{REAL[dataset][0]} of WHET_TEST_DATA"
    else:
        num_rows = num_train + 2 * num_held_out
        train = list(dict.fromkeys(map(json.dumps, generated(dataset, 2 * num_rows))))[:num_rows]
        held_out = train[-2 * num_held_out :]
        source = "generated"
    parts = {"train": train[:num_train], "validation": held_out[:num_held_out], "test": held_out[num_held_out:]}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        (Path(folder) / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return source


def read_lines(path: Path) -> list[str]:
    """The rows of a JSON lines file as they stand there."""
    return path.read_text(encoding="utf-8").splitlines()


def generated(dataset: str, num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows in the schema of `dataset`, the same ones every time."""
    rng = random.Random(seed)
    return [MAKERS[dataset](rng) for _ in range(num_rows)]


def dolly(rng: random.Random) -> dict[str, Any]:
    """An instruction, sometimes with a context."""
    a, b = rng.randrange(100), rng.randrange(100)
    context = f"The first shelf holds {a} books and the second {b}." if rng.random() < 0.5 else ""
    question = "How many books do both shelves hold?" if context else f"What is {a} plus {b}?"
    return {"instruction": question, "context": context, "response": f"{a + b}", "category": "closed_qa"}


def squad(rng: random.Random) -> dict[str, Any]:
    """A paragraph, and a question whose answer stands in it."""
    year, seats = rng.randrange(1800, 2000), rng.randrange(100, 9000)
    context = f"The hall was opened in {year}. It has {seats} seats."
    question, answer = rng.choice((("When was the hall opened?", str(year)), ("How many seats are there?", str(seats))))
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"id": f"{year}-{seats}-{answer}", "context": context, "question": question, "answers": answers}


def fiqa(rng: random.Random) -> dict[str, Any]:
    """A question about money with two answers, of which the first is learned."""
    amount, rate = 100 * rng.randrange(1, 100), rng.randrange(1, 10)
    question = f"What interest do {amount} dollars bear in one year at {rate} percent?"
    return {"question": question, "ground_truths": [f"They bear {amount * rate // 100} dollars.", "It depends."]}


def gsm8k(rng: random.Random) -> dict[str, Any]:
    """A word problem, and a solution that ends with its number."""
    boxes, pens = rng.randrange(2, 30), rng.randrange(2, 30)
    solution = f"Ann has {boxes} * {pens} = <<{boxes}*{pens}={boxes * pens}>>{boxes * pens} pens."
    question = f"Ann has {boxes} boxes with {pens} pens in each. How many pens has she?"
    return {"question": question, "answer": f"{solution}\n#### {boxes * pens}"}


MAKERS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "dolly": dolly,
    "squad": squad,
    "fiqa": fiqa,
    "gsm8k": gsm8k,
}
