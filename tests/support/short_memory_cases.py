"""Short runs that run out of memory; `python short_memory_cases.py FOLDER` is a rank of a launch and leaves N.json and
N.safetensors there. The tests call `result` in one process, without a shortage and with one.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from shared_prefixes import begin_alike, widen_norms
from short_memory import ERRORS, POINTS, Planned, Point, ShortMemory
from tiny import build_training, make_plan, run_steps, tiny_llama, values
from torch import Tensor

from whet.data.sampler import Order
from whet.errors import OutOfMemoryError
from whet.parallel import env as parallel_env
from whet.parallel.env import Env
from whet.recipe.schema import Adapter, Optim
from whet.train.callbacks import QuietCallback
from whet.train.fit import measure_step
from whet.train.incidents import Incident
from whet.train.lanes import Lanes
from whet.train.loop import Training

LENGTHS = [17, 9, 30, 5, 12, 8, 21, 14, 6, 11, 25, 7, 10]
GLOBAL_BATCH, NUM_STEPS = 8, 4
OPTIM = Optim(lr=1e-3, schedule="cosine", warmup=1, weight_decay=0.1, max_grad_norm=0.5)
DROPOUT = Adapter(rank=4, alpha=8.0, dropout=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two passes of a step and rank; the second step of an epoch has 5 of the 13 samples."""

    adapter: Adapter | None = DROPOUT
    dtype: torch.dtype = torch.float64
    recompute: str = "none"
    num_lanes: int = 1
    unit: str = "samples"
    shares_prefix: bool = False
    points: tuple[Point, ...] = POINTS


CASES = {
    "lora with dropout": Case(),
    "all weights": Case(adapter=None),
    "whole layers recomputed": Case(recompute="full", points=(*POINTS, "recomputed")),
    "two lanes": Case(num_lanes=2),
    "packs": Case(unit="packs"),
    "a shared prefix": Case(shares_prefix=True),
    "lora in float32": Case(dtype=torch.float32),
}


class Told(QuietCallback):
    """Keeps the incidents that it is told of."""

    name = "told"

    def __init__(self) -> None:
        self.incidents: list[Incident] = []

    def on_incident(self, incident: Incident) -> None:
        self.incidents.append(incident)


@dataclass(slots=True, kw_only=True)
class Result:
    """What a run gave."""

    steps: list[dict[str, Any]]
    moved: Tensor
    """trained values minus their start"""
    incidents: list[Incident] = field(default_factory=list)
    memory: ShortMemory | None = None


def make_training(case: Case, env: Env | None = None, *, told: Told | None = None) -> Training:
    env = env or Env()
    samples = begin_alike(LENGTHS, 12 * case.shares_prefix)
    lengths = np.array([sample.num_tokens for sample in samples], dtype=np.int32)
    order, global_batch = Order(lengths, seed=0), GLOBAL_BATCH
    if case.unit == "packs":
        order, global_batch = Order(lengths, seed=0, unit="packs", capacity=48), 2 * env.world_size
    plan = make_plan(
        order.num_units, micro_batch=global_batch // (2 * env.world_size), global_batch=global_batch,
        world_size=env.world_size, total_steps=NUM_STEPS,
    )  # fmt: skip
    model = tiny_llama(case.dtype)
    training = build_training(
        model, samples, replace(plan, share_prefix=case.shares_prefix), adapter=case.adapter, optim=OPTIM, env=env,
        order=order, recompute_level=case.recompute, callbacks=[told] if told else [],
    )  # fmt: skip
    if case.shares_prefix:  # norms round to float32 what is added up for a prefix, in whatever order
        widen_norms(model)
    return replace(training, lanes=Lanes(case.num_lanes, case.num_lanes) if case.num_lanes > 1 else None)


def result(
    case: Case, env: Env | None = None, *, planned: Sequence[Planned] = (), **memory: Any
) -> Result:  # fmt: skip
    """The whole run, step by step."""
    told = Told()
    training = make_training(case, env, told=told)
    short = ShortMemory(training, planned, **memory)
    start = values(training)
    records = run_steps(training)
    if training.lanes is not None:
        training.lanes.close()
    return Result(
        steps=[
            {name: getattr(record, name) for name in ("step", "loss", "lr", "grad_norm", "batch_hash", "num_taught")}
            for record in records
        ],
        moved=values(training) - start,
        incidents=told.incidents,
        memory=short,
    )


def draw_planned(case: Case, seed: int, *, fewest: int = 1) -> list[Planned]:
    """One to three shortages or more, at random steps, samples and points of the pass, by random errors."""
    draw = random.Random(seed)
    return [
        Planned(
            step=draw.randrange(NUM_STEPS), place=draw.randrange(GLOBAL_BATCH), point=draw.choice(case.points),
            error=draw.choice(list(ERRORS)),
        )
        for _ in range(draw.randint(fewest, fewest + 2))
    ]  # fmt: skip


RANK_CASES = ("lora with dropout", "all weights", "a shared prefix")
NUM_RANDOM = 2
NUM_DRAWN = 8
"""seeds of shortages in one process"""
ALONE = "one rank alone"
BOTH = "every rank"
TIMED = "timed first"


def rank_results(env: Env) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Every case without a shortage, with a shortage on one rank alone or on both, and with random ones."""
    numbers, moved = {}, {}
    for name in RANK_CASES:
        case = CASES[name]
        runs: dict[str, dict[str, Any]] = {
            "calm": {},
            ALONE: {"most_samples": 1 if env.rank == 1 else None, "from_step": 1},
            BOTH: {"most_samples": 1, "from_step": 1, "error": "cuda"},
        }
        runs |= {f"random {seed}": {"planned": draw_planned(case, seed, fewest=8)} for seed in range(NUM_RANDOM)}
        for kind, options in runs.items():
            found = result(case, env, **options)
            assert found.memory is not None
            key = f"{name}: {kind}"
            moved[key] = found.moved
            numbers[key] = {
                "steps": found.steps,
                "cuts": [incident.facts["cut"] for incident in found.incidents],
                "ranks": [incident.facts["ranks"] for incident in found.incidents],
                "raised": found.memory.raised,
                "largest": [max(len(p.sample_ids) for p in found.memory.of_step(n)) for n in range(NUM_STEPS)],
                "samples": [sorted(s for p in found.memory.of_step(n) for s in p.sample_ids) for n in range(NUM_STEPS)],
                "masks": [sorted(m for p in found.memory.of_step(n) for m in p.mask_rows) for n in range(NUM_STEPS)],
            }
    numbers["no way out"] = {"error": no_way_out(env)}
    numbers[TIMED], moved[TIMED] = timed_first(env)
    return numbers, moved


def timed_first(env: Env) -> tuple[dict[str, Any], Tensor]:
    """A run whose steps are timed before it begins, while rank 1 has no memory for the passes of the plan."""
    told = Told()
    training = make_training(CASES["lora with dropout"], env, told=told)
    ShortMemory(training, most_samples=2 if env.rank == 1 else None)
    start = values(training)
    seconds = measure_step(training).seconds
    records = run_steps(training)
    numbers = {
        "seconds": seconds,
        "cuts": [incident.facts["cut"] for incident in told.incidents],
        "losses": [record.loss for record in records],
    }
    return numbers, values(training) - start


def no_way_out(env: Env) -> str:
    """What a rank says when one of them has no memory for a single sample."""
    try:
        result(CASES["lora with dropout"], env, most_samples=0 if env.rank == 1 else None, from_step=2)
    except OutOfMemoryError as error:
        return str(error)
    return "nothing"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    env = parallel_env.read_env()
    parallel_env.start(env, torch.device("cpu"))
    try:
        numbers, moved = rank_results(env)
        save_file(moved, folder / f"{env.rank}.safetensors")
        (folder / f"{env.rank}.json").write_text(json.dumps(numbers), encoding="utf-8")
    finally:
        parallel_env.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
