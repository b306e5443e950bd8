"""Writes a checkpoint a second time: the calls of a save alone, in a process of one thread that a test may kill.

`SAVE_AGAIN` in the environment says what: the folder of a whole checkpoint; the run folder that gets it again, byte for
byte as the run wrote it, by whet's own `Saver`; in how many parts; whether it is the best; how many are kept.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from whet.checkpoint.blocks import Block
from whet.checkpoint.manifest import NAME as MANIFEST
from whet.checkpoint.sharded import Part, refuse_failed, write_part
from whet.cli.main import leave_by_exit_code
from whet.train.spread import OPTIMIZER
from whet.train.state import PLAN, RANDOM, STATE, Saver
from whet.types import RunPlan

RECIPE = "recipe.yaml"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors")


def order(source: Path, run_folder: Path, *, parts: int = 1, is_best: bool = False, keep: int = 1) -> dict[str, str]:
    """The environment variable that orders it."""
    value = {"source": str(source), "run": str(run_folder), "parts": parts, "is_best": is_best, "keep": keep}
    return {"SAVE_AGAIN": json.dumps(value)}


def save() -> None:
    """What `order` ordered; whet's errors end the process by their exit codes."""
    wanted = json.loads(os.environ["SAVE_AGAIN"])
    source, run_folder = Path(wanted["source"]), Path(wanted["run"])
    tensors = {path.name: load_file(path) for path in source.glob("*.safetensors")}
    state = (source / STATE).read_text(encoding="utf-8")
    saver = _saver(source, run_folder, keep=wanted["keep"])
    step = json.loads(state)["global_step"]
    os.kill(os.getpid(), signal.SIGSTOP)  # what follows is the save alone, and strace may look on
    leave_by_exit_code(
        lambda: (
            saver._write(step, state, wanted["is_best"], tensors)
            if wanted["parts"] == 1
            else _save_in_parts(saver, step, state, tensors, num_ranks=wanted["parts"])
        )
    )


def _saver(source: Path, run_folder: Path, *, keep: int) -> Saver:
    configs = {path.name: json.loads(path.read_text()) for path in source.glob("*config.json")}
    documents = {name: configs[name] for name in configs if name in ("adapter_config.json", "config.json")}
    named = {*documents, STATE, PLAN, RECIPE, MANIFEST, *(path.name for path in source.glob("*.safetensors"))}
    absent: Any = None
    return Saver(
        run_folder=run_folder,
        plan=RunPlan(**json.loads((source / PLAN).read_text(encoding="utf-8"))),
        keep=keep,
        trainables=SimpleNamespace(documents=documents),  # type: ignore[arg-type]
        optimizer=absent,
        callbacks=absent,
        best=absent,
        identity=absent,
        data_fingerprint="",
        recipe_yaml=(source / RECIPE).read_text(encoding="utf-8"),
        files={path.name: path.read_bytes() for path in sorted(source.iterdir()) if path.name not in named},
    )


def _save_in_parts(
    saver: Saver, step: int, state: str, tensors: dict[str, dict[str, Tensor]], *, num_ranks: int
) -> None:
    """As that many ranks do it, each with its share of the rows of every tensor, but one after the other."""
    weights = next(tensors[name] for name in WEIGHTS if name in tensors)
    numbers = {name: value for name, value in tensors[OPTIMIZER].items() if name.endswith(".step")}
    moments = {name: value for name, value in tensors[OPTIMIZER].items() if name not in numbers}
    shapes = {name: tuple(value.shape) for name, value in {**weights, **moments}.items()}
    reports = []
    for rank in range(num_ranks):
        is_main = rank == 0
        part = Part(
            rank=rank,
            num_ranks=num_ranks,
            blocks={"weights": _rows(weights, rank, num_ranks), "optimizer": _rows(moments, rank, num_ranks)},
            shapes=shapes,
            tensors={OPTIMIZER: numbers, RANDOM: tensors[RANDOM]} if is_main else {},
            documents=saver._documents(state) if is_main else {},
            files=saver.files if is_main else {},
        )
        reports.append(write_part(saver.run_folder, step=step, part=part))
    refuse_failed(saver.run_folder, step=step, reports=reports)
    saver.join(step, reports)


def _rows(tensors: dict[str, Tensor], rank: int, num_ranks: int) -> dict[str, Block]:
    blocks = {}
    for name, tensor in tensors.items():
        start, end = (len(tensor) * each // num_ranks for each in (rank, rank + 1))
        offsets = (start, *(0 for _ in tensor.shape[1:]))
        blocks[name] = Block(tensor=tensor[start:end], offsets=offsets, shape=tuple(tensor.shape))
    return blocks
