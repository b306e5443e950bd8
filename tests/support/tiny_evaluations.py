"""A finished tiny run with an evaluation set, ready for `evaluate_run`."""

import json
from pathlib import Path

import tiny_runs

from whet.evaluation import answers
from whet.evaluation.run import EvaluateOptions, evaluate_run
from whet.recipe.schema import Adapter

RECIPE = """
name: tiny
output: {run}
model: {{id: {base}, dtype: float32}}
adapter: {{method: {method}}}
data: {{train: [{{source: {rows}/train.jsonl}}]}}
train: {{device: cpu}}
evaluate:
  - name: sums
    source: {{source: {rows}/test.jsonl, split: all}}
    max_new_tokens: {new}
    batch_rows: 4
    metrics: [{metrics}]
"""

METRICS = "answer_accuracy"
NUM_ROWS = 20
FILES = ("base.jsonl", "tuned.jsonl", "comparison.json")


def write_rows(folder: Path, num_rows: int) -> None:
    """Training rows, and `num_rows` questions of several lengths that are none of them."""
    for name, numbers in (("train", range(1000, 1004)), ("test", range(num_rows))):
        rows = [{"question": f"{n} and {n + 1}?{' well' * (7 * n % 11)}", "answer": str(2 * n + 1)} for n in numbers]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(
    folder: Path, *, num_rows: int = 20, max_new_tokens: int = 12, is_full: bool = False, metrics: str = METRICS
) -> Path:
    """A run in `folder/run` over a base in `folder/base`, whose answers to `num_rows` questions differ."""
    base = tiny_runs.write_base(folder / "base")
    write_rows(folder, num_rows)
    return add_run(folder, "run", base, max_new_tokens=max_new_tokens, is_full=is_full, metrics=metrics)


def add_run(
    folder: Path,
    name: str,
    base: Path,
    *,
    max_new_tokens: int = 12,
    is_full: bool = False,
    size: float = 0.3,
    metrics: str = METRICS,
) -> Path:
    """Another run over the same base and rows; `size`: how far tuning went."""
    run = folder / name
    if is_full:
        tiny_runs.write_full_run(run, base)
    else:
        tiny_runs.write_adapter_run(run, base, Adapter(rank=4, alpha=8.0), size=size)
    method = "none" if is_full else "lora"
    text = RECIPE.format(run=run, base=base, rows=folder, new=max_new_tokens, method=method, metrics=metrics)
    (run / "recipe.yaml").write_text(text, encoding="utf-8")
    return run


class InterruptedError(BaseException):
    """What ends an evaluation in the middle."""


def evaluate(folder: Path, **options) -> list[str]:
    """What it said."""
    said: list[str] = []
    evaluate_run(folder, say=said.append, options=EvaluateOptions(**options))
    return said


def contents(folder: Path) -> list[bytes]:
    return [(folder / "evaluations" / "sums" / name).read_bytes() for name in FILES]


def interrupt_at(monkeypatch, num_rows: int) -> None:
    """End the evaluation when this many rows have been finished, in the middle of a portion or at its end."""
    generate, finished = answers.generate, []

    def stop(model, prompts, *, on_finished, **others):
        def count(index, num_finished):
            on_finished(index, num_finished)
            finished.append(index)
            if len(finished) == num_rows:
                raise InterruptedError

        return generate(model, prompts, on_finished=count, **others)

    monkeypatch.setattr(answers, "generate", stop)
