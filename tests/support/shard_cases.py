"""Whole runs whose state is spread over ranks. `python shard_cases.py FOLDER CASE ...` is one rank of a launch of them.

A case trains from the beginning, or goes on from the middle of another case's run: a copy of its folder is sent back to
the checkpoint of step 3. Every case is `run_recipe` as the command line calls it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import tiny_runs
import torch

from whet.checkpoint import sharded
from whet.recipe import load_recipe
from whet.train.run import Options, run_recipe

MIDDLE, LAST = 3, 6
RECIPE = """
name: tiny
output: {folder}/unused
model: {{id: {folder}/base, dtype: float32}}
adapter: {{method: none}}
data:
  train: [{{source: {folder}/rows.jsonl}}]
  validation: [{{source: {folder}/other.jsonl}}]
batch: {{global_size: 4, micro_size: 1}}
optim: {{lr: 0.002, warmup: 0}}
train: {{max_steps: 6, save_every: 3, eval_every: 2, keep: 9, device: cpu, threads: 1}}
tracking: []
"""
LORA = ("adapter.method=lora", "adapter.rank=4", "adapter.alpha=8", "adapter.dropout=0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of `run_recipe`."""

    overrides: tuple[str, ...] = ()
    goes_on: str | None = None
    """the case from whose middle"""


CASES = {
    # one process
    "alone": Case(),
    "alone, an adapter": Case(overrides=LORA),
    "on 1 from fsdp": Case(goes_on="fsdp"),
    "on 1 from hsdp": Case(goes_on="hsdp", overrides=("train.final=best",)),
    "on 1 from tensor": Case(goes_on="tensor"),
    "on 1 from tensor, an adapter": Case(goes_on="tensor, an adapter", overrides=LORA),
    "on 1 after a kill": Case(goes_on="killed"),
    # four
    "fsdp": Case(overrides=("parallel.strategy=fsdp",)),
    "again": Case(goes_on="fsdp", overrides=("parallel.strategy=fsdp",)),
    "hsdp": Case(overrides=("parallel.strategy=hsdp", "parallel.shards=2", "train.final=best")),
    "tensor": Case(overrides=("parallel.strategy=fsdp", "parallel.tensor=2")),
    "tensor, an adapter": Case(overrides=("parallel.strategy=replicate", "parallel.tensor=2", *LORA)),
    # two
    "on 2 from fsdp": Case(goes_on="fsdp", overrides=("parallel.strategy=fsdp",)),
    "on 2 as copies": Case(goes_on="hsdp", overrides=("parallel.strategy=replicate", "train.final=best")),
    "on 2 from 1": Case(goes_on="alone", overrides=("parallel.strategy=fsdp",)),
    "on 2 sharing layers": Case(goes_on="fsdp", overrides=("parallel.strategy=replicate", "parallel.tensor=2")),
    "killed": Case(overrides=("parallel.strategy=fsdp",)),
}


def write_place(folder: Path) -> None:
    """Base model, rows and recipe."""
    tiny_runs.write_base(folder / "base", is_tied=False)
    for name, numbers in (("rows", range(14)), ("other", range(100, 105))):
        rows = [{"question": f"{n} and {n + 1}?{' well' * (7 * n % 11)}", "answer": str(2 * n + 1)} for n in numbers]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")


def run_case(folder: Path, name: str, *, is_main: bool = True) -> None:
    """Train case `name` into a folder of its name."""
    case = CASES[name]
    output = folder / name
    if case.goes_on is not None and is_main:
        shutil.copytree(folder / case.goes_on, output)
    recipe = load_recipe(folder / "recipe.yaml", (f"output={output}", *case.overrides))
    resume = str(output / f"checkpoint-{MIDDLE}") if case.goes_on is not None else None
    run_recipe(recipe, Options(resume=resume, say=lambda _: None))


def die_while_writing(step: int) -> None:
    """This rank's process ends, as if its machine had, in the thread that writes its part of checkpoint-`step`."""
    real = sharded.save_file

    def save_file(tensors, path, metadata):
        if f"checkpoint-{step}" in str(path):
            assert threading.current_thread() is not threading.main_thread()
            os.kill(os.getpid(), signal.SIGKILL)
        real(tensors, path, metadata=metadata)

    sharded.save_file = save_file


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name in names:
        if name == "killed" and rank == world_size - 1:
            die_while_writing(LAST)
        run_case(folder, name, is_main=rank == 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
