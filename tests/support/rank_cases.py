"""Short runs that must not depend on the number of ranks. `python rank_cases.py FOLDER` is one rank of them.

`results` is called by the tests in one process, and by every rank of a launch (RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT), which leaves rank-N.safetensors and rank-N.json in FOLDER.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from shared_prefixes import begin_alike
from tiny import LORA, attach, build_training, make_plan, make_samples, run_steps, tiny_llama, values
from tiny_live import make_live, make_rows
from torch import Tensor

from whet.parallel import env as parallel_env
from whet.parallel.env import Env
from whet.parallel.reduce import all_reduce_step, broadcast_from_main, broadcast_text, gather_texts, sum_over_ranks
from whet.recipe.schema import Adapter, Callback, Optim
from whet.train.best import Best
from whet.train.callbacks import QuietCallback, Requests
from whet.train.held_out import evaluate_loss, measure
from whet.train.loop import train, train_step
from whet.train.on_spectral import Spectral
from whet.train.saves import Saves
from whet.train.signals import StopRequest
from whet.types import StepRecord

LENGTHS = [17, 9, 30, 5, 12, 8]
DROPOUT = Adapter(rank=4, alpha=8.0, dropout=0.3)
REFACTORED = "lora refactored after steps 2 and 3"
SHARED = "dropout, samples that begin alike"
# (dtype, adapter, number of samples, micro-batch): global batch 4, three steps
CASES = {
    "lora with dropout": (torch.float64, DROPOUT, 6, 1),
    "all weights, nothing left for rank 1 in the short step": (torch.float64, None, 5, 2),
    "lora in float32": (torch.float32, LORA, 6, 2),
    "pissa with rank-stabilised scale and dropout": (
        torch.float64,
        Adapter(rank=4, alpha=8.0, init="pissa", rslora=True, dropout=0.3),
        6,
        1,
    ),
    "lora_ga with dropout": (torch.float64, Adapter(rank=4, alpha=8.0, init="lora_ga", dropout=0.3), 6, 1),
    "corda in float32": (torch.float32, Adapter(rank=4, alpha=8.0, init="corda"), 6, 2),
    "eva": (torch.float64, Adapter(rank=4, alpha=8.0, init="eva"), 6, 1),
    "dora and norms": (torch.float64, Adapter(rank=4, alpha=8.0, method="dora", also_train=("norms",)), 6, 2),
    REFACTORED: (torch.float64, LORA, 6, 1),
    SHARED: (torch.float64, DROPOUT, 6, 2),
}
SPECTRAL = Callback(name="spectral", every=1, warmup_steps=2, mode="balanced")
OPTIM = Optim(lr=1e-3, schedule="cosine", warmup=1, weight_decay=0.1, max_grad_norm=0.5)


def results(env: Env) -> tuple[dict[str, dict], dict[str, Tensor]]:
    """Per case {step numbers, evaluation} and {case: trained values minus their start}."""
    numbers, moved = {}, {}
    for name, (dtype, adapter, num_samples, micro_batch) in CASES.items():
        plan = make_plan(
            num_samples, micro_batch=micro_batch, global_batch=4, world_size=env.world_size, total_steps=3
        )  # fmt: skip
        shares = name == SHARED
        plan = dataclasses.replace(plan, share_prefix=shares)
        samples = begin_alike(LENGTHS[:num_samples], 12 * shares)
        training = build_training(
            tiny_llama(dtype), samples, plan, adapter=adapter, optim=OPTIM, env=env,
            validation=make_samples([9, 31, 4, 17, 6], seed=9),
            callbacks=[Spectral(SPECTRAL)] if name == REFACTORED else [],
        )  # fmt: skip
        start = values(training)
        training.callbacks.on_start(training, 0)
        records = []
        with other_processor() if env.rank else nullcontext():
            for step in range(3):
                records += run_steps(training, [step])
                training.callbacks.after_step(records[-1])
        evaluated = evaluate_loss(training)
        numbers[name] = {
            "losses": [r.loss for r in records],
            "norms": [r.grad_norm for r in records],
            "taught": [r.num_taught for r in records],
            "hashes": [r.batch_hash for r in records],
            "eval": [evaluated["loss"], evaluated["token_accuracy"], evaluated["num_taught"]],
        }
        moved[name] = values(training) - start
    return numbers, moved


def other_processor() -> AbstractContextManager[object]:
    """Another library or instruction set may return the same decomposition with singular vectors turned around."""
    svd = torch.linalg.svd

    def turned(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = svd(matrix)
        return -u, s, -vh

    return mock.patch.object(torch.linalg, "svd", turned)


def live_answers(env: Env) -> dict:
    """Answers in training after each of three steps, and what they decide; seven rows, so that a rank may have none."""
    plan = make_plan(6, micro_batch=1, global_batch=4, world_size=env.world_size, total_steps=3)
    training = build_training(
        tiny_llama(torch.float64), make_samples(LENGTHS), plan, adapter=DROPOUT, optim=OPTIM, env=env,
        validation=make_samples([9, 31, 4, 17, 6], seed=9),
        best=Best(name="rows/loss", patience=2),
    )  # fmt: skip
    metrics = ("answer_length", "stop_rate", "exact_match", "loss")
    rows = make_rows(["7", "", "\n\n", " Na", "5", "well", "9"])
    live = make_live(training.model, rows, metrics=metrics, batch_rows=1, env=env, prefix="rows/", every=1)
    training = dataclasses.replace(training, live=[live], plan=dataclasses.replace(plan, eval_every=1))
    measured, decided = [], []
    for step in range(3):
        run_steps(training, [step])
        record = measure(training, step + 1, is_asked=False)
        assert record is not None
        measured.append(record.metrics)
        decided.append([training.best.note(record), training.best.is_out_of_patience])
    return {"measured": measured, "decided": decided, "state": training.best.state()}


class Listener(QuietCallback):
    """Notes which checkpoints it hears of, and after which step."""

    name = "listener"

    def __init__(self) -> None:
        self.step, self.saved = 0, []

    def after_step(self, record: StepRecord) -> Requests:
        self.step = record.step
        return Requests()

    def on_checkpoint_saved(self, step: int, folder: Path) -> None:
        self.saved.append((step, self.step))


def saves_beside(env: Env) -> list[tuple[int, int]]:
    """What callbacks hear of checkpoints that rank 0 alone writes, some slowly."""
    plan = make_plan(40, micro_batch=1, global_batch=4, world_size=env.world_size, total_steps=9)
    plan = dataclasses.replace(plan, save_every=3)
    listener = Listener()
    training = build_training(tiny_llama(), make_samples([5] * 40), plan, adapter=LORA, env=env, callbacks=[listener])
    hold = lambda step: lambda: time.sleep(0.2 * (step == 6))  # noqa: E731
    saves = Saves(hold, run_folder=Path("run"), env=env, callbacks=training.callbacks)
    train(dataclasses.replace(training, saves=saves), first_step=0, stop=StopRequest())
    return listener.saved


def agreement(env: Env) -> dict:
    """What the ranks agree on although each says something else."""
    plan = make_plan(4, micro_batch=1, global_batch=4, world_size=env.world_size)
    training = build_training(tiny_llama(), make_samples([5, 6, 7, 8]), plan, adapter=LORA, env=env)
    is_last = env.rank == env.world_size - 1
    _, agreed = train_step(training, 0, asked=Requests(save=is_last), stop=StopRequest())
    parameter = torch.nn.Parameter(torch.zeros(2))
    if not is_last:
        parameter.grad = torch.tensor([1.0, 2.0])
    summed = all_reduce_step([parameter], torch.tensor([env.rank + 1.0])).tolist()
    value = torch.full((3,), float(env.rank))
    broadcast_from_main([value])
    # every rank draws its own factors and start
    drawn = attach(tiny_llama(torch.float32), Adapter(rank=4, init="pissa_fast"), seed=env.rank)
    broadcast_from_main(drawn.all_values.values())
    adapter = torch.cat([t.detach().reshape(-1) for t in drawn.all_values.values()])
    return {
        "requests": [agreed.save, agreed.evaluate, agreed.stop],
        "summed": summed,
        "gradient": parameter.grad.tolist(),
        "broadcast": value.tolist(),
        "adapter": hashlib.sha256(adapter.numpy().tobytes()).hexdigest(),
        "text": broadcast_text(f"from rank {env.rank} \u00e4"),
        "texts": [gather_texts("\u00e4" * (3 * env.rank)), gather_texts("")],
        "sum": sum_over_ranks([env.rank, 1e-12], torch.device("cpu")),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    env = parallel_env.read_env()
    parallel_env.start(env, torch.device("cpu"))
    try:
        numbers, moved = results(env)
        document = {
            "cases": numbers,
            "live": live_answers(env),
            "saves": saves_beside(env),
            "agreement": agreement(env),
        }
    finally:
        parallel_env.stop()
    save_file(moved, folder / f"rank-{env.rank}.safetensors")
    (folder / f"rank-{env.rank}.json").write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
