"""Small steps before the loop: threads, the plan of a continued run, and the facts a run records."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from whet import allocator
from whet.atomic import remove, write_text
from whet.checkpoint.load import Checkpoint
from whet.data.pipeline import PreparedData
from whet.data.templates import Template
from whet.errors import RecipeError, StorageError
from whet.estimate.hardware import processor_name, say_if_busy, usable_cores
from whet.models.load import LoadedModel
from whet.parallel.env import Env
from whet.parallel.reduce import broadcast_text
from whet.parallel.smoke import Smoke
from whet.recipe.measured import chosen_on_verdict_rows
from whet.recipe.resolve import derive_accumulation, fixed_micro_batch
from whet.recipe.schema import Data, Recipe
from whet.train import memory_plan
from whet.train.folder import write_json
from whet.train.state import PLAN
from whet.types import Ledger, RowStatus, RunPlan, TokenizedSet

LEDGER = "ledger.json"
QUARANTINE = "quarantine.jsonl"
FOLLOWS_LENGTH = ("total_steps", "epochs", "warmup_steps", "save_every", "eval_every")
"""of a plan: what changes with the number of steps"""
_OF_ROWS = ("num_samples", "global_batch", "steps_per_epoch")


def set_threads(requested: int | None, env: Env, device: torch.device, say: Callable[[str], None]) -> int:
    """OpenMP threads of this rank: as asked, else this machine's physical cores shared among its ranks."""
    if device.type != "cpu":
        return torch.get_num_threads()
    cores = usable_cores()
    asked = requested or int(os.environ.get("OMP_NUM_THREADS", "0")) or max(1, cores // env.local_world_size)
    torch.set_num_threads(asked)
    if asked > 1 and (busy := say_if_busy(cores)):
        say(busy)
    return asked


@contextmanager
def nothing_to_lock() -> Iterator[None]:
    """Ranks other than 0 write nothing."""
    yield


def refuse_other_start(checkpoint: Checkpoint | None, env: Env) -> None:
    """StorageError on a rank that would begin elsewhere than rank 0: when each node has a disk of its own."""
    step = checkpoint.step if checkpoint else 0
    of_main = int(broadcast_text(str(step)))
    if step != of_main:
        raise StorageError(
            f"rank {env.rank} would continue after step {step}, rank 0 after step {of_main}",
            mend="put `output` on storage that all ranks share",
        )


def say_if_flattered(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Say so when the rows that carry the verdict choose the weights too."""
    if (name := chosen_on_verdict_rows(recipe)) is not None:
        say(
            f"{name}: its rows choose the weights and carry the verdict too, which so flatters; choose by a set of its "
            "own, with role: other"
        )


def refuse_uneven_ranks(recipe: Recipe, env: Env) -> None:
    """RecipeError, before anything is read, where the ranks cannot share the global batch; says which numbers can."""
    num_data_ranks = max(1, env.world_size // recipe.parallel.tensor)
    derive_accumulation(recipe.batch, num_data_ranks, fixed_micro_batch(recipe.batch, num_data_ranks))


def continued_plan(
    recipe: Recipe, now: RunPlan, saved: Mapping[str, Any], *, is_changed: bool = False
) -> RunPlan:  # fmt: skip
    """The saved plan for today's ranks: what was decided stays decided, only the split of a step may differ.

    With accepted changes (`is_changed`) the run is as long as it would be today, unless it was fitted to a time budget.
    """
    known = {f.name for f in fields(RunPlan)}
    plan = RunPlan(**{k: v for k, v in saved.items() if k in known})
    if is_changed:
        names = _OF_ROWS if recipe.train.fit_seconds is not None else (*_OF_ROWS, *FOLLOWS_LENGTH)
        plan = replace(plan, compute_dtype=now.compute_dtype, **{name: getattr(now, name) for name in names})
    for name in ("num_samples", "global_batch"):
        if getattr(plan, name) != getattr(now, name):
            raise RecipeError(f"{name} was {getattr(plan, name)} when the run began and is {getattr(now, name)} now")
    plan = replace(plan, device=now.device, num_threads=now.num_threads)
    return memory_plan.continued(recipe, plan, now.world_size)


def follow_template(loaded: LoadedModel, data: Data, template: Template) -> LoadedModel:
    """The model with the end tokens and the chat template that it is trained with, so that both are saved with it."""
    if template.chat is not None and data.chat_template != "own":
        loaded.tokenizer.chat_template = template.chat.text
    return replace(loaded, stop_ids=tuple(sorted(template.end_ids)))


def write_facts(
    run_folder: Path, plan: RunPlan, data: PreparedData, loaded: LoadedModel, device: torch.device,
    network: Smoke | None,
) -> None:  # fmt: skip
    """run_plan.json, environment.json, data.json, ledger.json and model.json of a run; bad rows in quarantine.jsonl."""
    write_json(run_folder / PLAN, asdict(plan))
    all_reduce = {"all_reduce": asdict(network)} if network is not None else {}
    write_json(run_folder / "environment.json", environment(plan, device) | all_reduce)
    accounts = {"train": data.train} | ({"validation": data.validation} if data.validation else {})
    document: dict[str, Any] = {name: _account(tokens) for name, tokens in accounts.items()}
    write_json(run_folder / "data.json", document | {"notes": list(data.notes)})
    write_ledgers(run_folder, data)
    write_json(run_folder / "model.json", asdict(loaded.identity))


def write_ledgers(folder: Path, data: PreparedData) -> None:
    """ledger.json: every row of every set that is not simply a sample; quarantine.jsonl: the bad ones, whole."""
    write_json(folder / LEDGER, {"format_version": 1, "sets": [_ledger(each) for each in data.ledgers]})
    if data.quarantine:
        write_text(folder / QUARANTINE, "".join(json.dumps(row) + "\n" for row in data.quarantine))
    else:
        remove(folder / QUARANTINE)


def _ledger(ledger: Ledger) -> dict[str, Any]:
    counts = {status: ledger.count(status) for status in get_args(RowStatus)}
    head = {"name": ledger.name, "num_rows": ledger.num_rows, "num_samples": ledger.num_samples}
    return head | {"counts": {"kept": ledger.num_kept, **counts}} | asdict(ledger)


def _account(tokens: TokenizedSet) -> dict[str, Any]:
    ledger = tokens.ledger
    return {
        "num_rows": ledger.num_rows,
        "num_kept": len(tokens.samples),
        "num_dropped": ledger.num_rows - ledger.num_samples,
        "num_truncated": ledger.count("truncated"),
        "num_tokens": int(tokens.lengths.sum(dtype=np.int64)),
        "num_taught": int(tokens.num_taught.sum(dtype=np.int64)),
        "fingerprint": tokens.fingerprint,
    }


def environment(plan: RunPlan, device: torch.device) -> dict[str, Any]:
    """Versions, processor, threads and device of this process, for environment.json."""
    names = ("whet", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
    return {name: _version(name) for name in names} | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": plan.num_threads,
        "allocator": allocator.describe(),
        "world_size": plan.world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "byte_order": sys.byteorder,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
