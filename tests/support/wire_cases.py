"""Steps whose collectives and bytes are counted. `python wire_cases.py FOLDER` is one rank of them.

A launch (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) leaves rank-N.json in FOLDER.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tiny import LORA, attach, build_training, make_plan, make_samples, run_steps, tiny_llama
from torch import nn
from wire_counts import CountedCollectives, acked_bytes

from whet.parallel.env import Env, read_env
from whet.parallel.mesh import make_layout
from whet.parallel.reduce import all_reduce_step
from whet.parallel.wrap import wrap
from whet.recipe.schema import Parallel
from whet.train.pace import Pace

PASSES = 2
NUM_TOKENS = 13
"""of a pass of which two ranks share every layer: not a multiple of their number"""
NUM_FLOATS = 3_000_000
TINY = {
    "num_layers": 2,
    "hidden": 64,
    "intermediate": 96,
    "query_size": 64,
    "key_size": 32,
    "num_heads": 4,
    "vocab": 500,
}
"""sizes of `tiny_llama`"""


def replicated(env: Env) -> dict:
    """A step of an adapter that every rank holds, as the loop makes it."""
    plan = make_plan(8, micro_batch=1, global_batch=8, world_size=env.world_size, total_steps=2)
    training = build_training(tiny_llama(torch.float32), make_samples([9, 17, 30, 5] * 2), plan, adapter=LORA, env=env)
    training = dataclasses.replace(training, pace=Pace(env.rank, env.world_size))
    run_steps(training, [0])
    with CountedCollectives() as counted:
        run_steps(training, [1])
    return {"seen": listed(counted), "num_trainable": training.trainables.num_parameters}


def sharded(env: Env, *, trains_all: bool) -> dict:
    """Two passes over a sharded model, and the all-reduce of what stays whole."""
    model = tiny_llama(torch.float32 if trains_all else torch.bfloat16)
    whole: list[nn.Parameter]
    if trains_all:
        model.requires_grad_(True)
        whole = [p for p in model.parameters() if p.ndim == 1]
    else:
        whole = list(attach(model, LORA).named.values())
    num_whole = sum(p.numel() for p in whole)
    layout = make_layout(Parallel(strategy="fsdp"), env, strategy="fsdp", device_type="cpu")
    sharding = wrap(model, layout, blocks=list(model.model.layers), whole=whole, device=torch.device("cpu"))
    ids = torch.arange(3, 15)[None]
    with CountedCollectives() as counted:
        for one_pass in sharding.in_turn([ids + number for number in range(PASSES)]):
            model(one_pass, use_cache=False).logits.float().square().mean().backward()
        all_reduce_step(whole, torch.zeros(1))
    return {"seen": listed(counted), "num_whole": num_whole}


def shared_layers(env: Env, *, trains_all: bool) -> dict:
    """A step of one pass over ranks that share the work of each layer."""
    layout = make_layout(Parallel(tensor=env.world_size), env, strategy="replicate", device_type="cpu")
    plan = make_plan(2, micro_batch=1, global_batch=1, total_steps=2)
    training = build_training(
        tiny_llama(torch.float32), make_samples([NUM_TOKENS] * 2), plan, adapter=None if trains_all else LORA, env=env,
        layout=layout,
    )  # fmt: skip
    with CountedCollectives() as counted:
        run_steps(training, [0])
    return {"seen": listed(counted)}


def listed(counted: CountedCollectives) -> list[list]:
    return sorted([kind, payload, count] for (kind, payload), count in counted.seen.items())


def through_sockets() -> dict[str, list[int]]:
    """Bytes that a rank sends for one collective of each kind over `NUM_FLOATS` numbers."""
    world = dist.get_world_size()
    whole, part = torch.ones(NUM_FLOATS), torch.ones(NUM_FLOATS // world)
    calls = {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
    }
    found = {}
    for kind, call in calls.items():
        dist.barrier()
        time.sleep(0.2)  # acknowledgements of the barrier
        before = acked_bytes()
        call()
        dist.barrier()
        time.sleep(0.2)
        found[kind] = [4 * NUM_FLOATS, acked_bytes() - before]
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    env = read_env()
    # without whet's own watch, whose words would be counted too
    dist.init_process_group("gloo")
    try:
        document = {
            "sockets": through_sockets(),
            "replicate": replicated(env),
            "all weights": sharded(env, trains_all=True),
            "adapter": sharded(env, trains_all=False),
            "all weights, shared layers": shared_layers(env, trains_all=True),
            "adapter, shared layers": shared_layers(env, trains_all=False),
        }
    finally:
        dist.destroy_process_group()
    (folder / f"rank-{env.rank}.json").write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
