"""Short runs that must not depend on who holds which weights; `python strategy_cases.py FOLDER STRATEGY...` is a rank.

`results` is called by the tests in one process, and by every rank of a launch for each strategy; a rank leaves
STRATEGY-N.json and STRATEGY-N.safetensors in FOLDER.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import (
    LORA,
    attach,
    build_training,
    make_plan,
    make_samples,
    perturb,
    run_steps,
    summed_nll,
    tiny_llama,
    values,
)
from tiny_live import make_live, make_rows
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from whet.errors import NonFiniteError
from whet.models.adapters import train_all_weights
from whet.parallel import env as parallel_env
from whet.parallel.env import Env
from whet.parallel.mesh import Layout, make_layout
from whet.recipe.schema import Adapter, Callback, Optim, Parallel
from whet.train.fit import measure_step
from whet.train.held_out import evaluate_loss, measure
from whet.train.loop import Training
from whet.train.on_spectral import Spectral

LENGTHS = [17, 9, 30, 5, 12, 8, 21, 14, 6, 11, 25, 7, 10]
GLOBAL_BATCH = 8
NUM_STEPS = 3
OPTIM = Optim(lr=1e-3, schedule="cosine", warmup=1, weight_decay=0.1, max_grad_norm=0.5)
SPECTRAL = Callback(name="spectral", every=1, warmup_steps=2, mode="balanced")
STRATEGIES = {
    "replicate": Parallel(strategy="replicate"),
    "fsdp": Parallel(strategy="fsdp"),
    "hsdp": Parallel(strategy="hsdp", shards=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Steps of 8 and of 5 samples: with four ranks and one sample a pass, some ranks have less to do in the second."""

    adapter: Adapter | None
    dtype: torch.dtype = torch.float64
    optim: Optim = OPTIM
    micro_batch: int = 1
    recompute: str = "none"
    is_tied: bool = True
    callbacks: Sequence[Callback] = ()
    uses_autocast: bool = False


DROPOUT = Adapter(rank=4, alpha=8.0, dropout=0.05)
CASES = {
    "lora with dropout": Case(adapter=DROPOUT),
    "lora in float32, whole layers recomputed": Case(adapter=LORA, dtype=torch.float32, recompute="full"),
    "pissa with rank-stabilised scale and dropout": Case(
        adapter=Adapter(rank=4, alpha=8.0, init="pissa", rslora=True, dropout=0.05), recompute="norms"
    ),
    "lora refactored after steps 2 and 3": Case(adapter=LORA, callbacks=[SPECTRAL], micro_batch=2),
    "dora and norms, untied": Case(
        adapter=Adapter(rank=4, alpha=8.0, method="dora", also_train=("norms",)), is_tied=False
    ),
    "all weights": Case(adapter=None),
    "all weights, untied, feed-forward parts recomputed": Case(adapter=None, is_tied=False, recompute="mlp"),
    "all weights in float32": Case(adapter=None, dtype=torch.float32, micro_batch=2),
    "all weights, not clipped": Case(adapter=None, optim=replace(OPTIM, max_grad_norm=0.0), micro_batch=2),
    "bfloat16 weights with masters": Case(
        adapter=None, dtype=torch.bfloat16, optim=replace(OPTIM, master="float32"), micro_batch=2
    ),
    "float32 weights with bfloat16 products": Case(
        adapter=None, dtype=torch.float32, uses_autocast=True, micro_batch=2
    ),
}
EVEN = {"an adapter": LORA, "everything": None}
"""what is compared with torch's DistributedDataParallel, in two steps of eight samples"""
OVER_FOUR = (
    "pissa with rank-stabilised scale and dropout", "all weights",
    "all weights, untied, feed-forward parts recomputed", "bfloat16 weights with masters",
)  # fmt: skip
RUN = {
    (2, "replicate"): ("all weights", "float32 weights with bfloat16 products"),  # more in test_world_size.py
    (2, "fsdp"): tuple(CASES),
    (4, "fsdp"): ("all weights",),
    (4, "hsdp"): OVER_FOUR,
}
"""(number of ranks, strategy) -> cases"""
ASKED_MORE = ((2, "fsdp"), (4, "hsdp"))
"""which also answer rows between steps, time steps, and meet a loss that is no number"""


@dataclass(slots=True)
class Results:
    """What one rank found."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    moved: dict[str, Tensor] = field(default_factory=dict)
    """trained values minus their start, whole"""


def make_training(case: Case, env: Env, layout: Layout) -> Training:
    plan = make_plan(
        len(LENGTHS), micro_batch=case.micro_batch, global_batch=GLOBAL_BATCH, world_size=layout.num_data_ranks,
        total_steps=NUM_STEPS,
    )  # fmt: skip
    return build_training(
        tiny_llama(case.dtype, is_tied=case.is_tied), make_samples(LENGTHS), plan, adapter=case.adapter,
        optim=case.optim, env=env, validation=make_samples([9, 31, 4, 17, 6], seed=9), layout=layout,
        callbacks=[Spectral(each) for each in case.callbacks], recompute_level=case.recompute,
        uses_autocast=case.uses_autocast,
    )  # fmt: skip


def results(env: Env, layout: Layout, names: Sequence[str] = tuple(CASES)) -> Results:
    found = Results()
    for name in names:
        case = CASES[name]
        training = make_training(case, env, layout)
        start = values(training)
        training.callbacks.on_start(training, 0)
        records = []
        for step in range(NUM_STEPS):
            records += run_steps(training, [step])
            training.callbacks.after_step(records[-1])
        evaluated = evaluate_loss(training)
        found.numbers[name] = {
            "losses": [r.loss for r in records],
            "norms": [r.grad_norm for r in records],
            "hashes": [r.batch_hash for r in records],
            "eval": [evaluated["loss"], evaluated["token_accuracy"], evaluated["num_taught"]],
            "held": held(training),
        }
        found.moved[name] = values(training) - start
    return found


def held(training: Training) -> list[int]:
    """Numbers of the model that this rank holds now, and all there are."""
    parameters = list(training.model.parameters())
    own = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
    return [own, sum(p.numel() for p in parameters)]


def live_answers(env: Env, layout: Layout) -> list[dict[str, float]]:
    """Answers between steps, of seven rows, so that ranks have different numbers of them; then a step again."""
    training = make_training(CASES["lora with dropout"], env, layout)
    rows = make_rows(["7", "", "\n\n", " Na", "5", "well", "9"])
    metrics = ("answer_length", "stop_rate", "exact_match", "loss")
    live = make_live(training.model, rows, metrics=metrics, batch_rows=1, layout=layout, prefix="rows/", every=1)
    training = replace(training, live=[live], plan=replace(training.plan, eval_every=1))
    measured = []
    for step in range(NUM_STEPS):
        records = run_steps(training, [step])
        record = measure(training, step + 1, is_asked=False)
        assert record is not None
        measured.append(dict(record.metrics) | {"train": records[0].loss})
    return measured


def measured_before(env: Env, layout: Layout) -> float:
    """The first loss of a run whose steps were timed before it began."""
    training = make_training(CASES["all weights"], env, layout)
    measure_step(training)
    return run_steps(training, [0])[0].loss


def non_finite(env: Env, layout: Layout) -> str:
    """What a rank says when the rows of one of them alone give no number."""
    training = make_training(CASES["lora with dropout"], env, layout)
    poisoned = make_samples(LENGTHS)
    first = int(training.order.step(training.plan, 0).indices[0])
    poisoned[first].ids[:] = 2
    model = tiny_llama(torch.float64, is_tied=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[2] = torch.nan
    training = build_training(
        model, poisoned, training.plan, env=env, layout=layout, adapter=LORA, is_perturbed=False
    )  # fmt: skip
    try:
        run_steps(training, [0])
    except NonFiniteError as error:
        return f"{type(error).__name__}: {error}".replace(poisoned[first].id, "the poisoned sample")
    return "nothing"


class Oracle(nn.Module):
    """Samples -> summed loss, by transformers, PEFT and torch alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, samples: Sequence[Any]) -> Tensor:
        return torch.stack([summed_nll(self.model, sample) for sample in samples]).sum()


def by_torch(env: Env, adapter: Adapter | None) -> tuple[list[float], list[float], Tensor]:
    """(losses, gradient norms, movement) of two steps of 8 samples, four passes each, under DistributedDataParallel."""
    model = tiny_llama(torch.float64)
    trainables = attach(model, adapter) if adapter else train_all_weights(model)
    if adapter:
        perturb(trainables)
    named = trainables.named
    start = torch.cat([p.detach().reshape(-1).clone() for p in named.values()])
    ddp = DistributedDataParallel(Oracle(model))
    matrices = [p for name, p in named.items() if p.ndim > 1]
    others = [p for name, p in named.items() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-3)
    training = even_training(env, adapter)
    losses, norms = [], []
    for step in range(2):
        indices = training.order.step(training.plan, step).indices
        samples = [training.samples[i] for i in indices]
        num_taught = sum(sample.num_taught for sample in samples)
        own = samples[env.rank :: env.world_size]
        optimizer.zero_grad()
        nll = torch.zeros((), dtype=torch.float64)
        for number, sample in enumerate(own):
            ddp.require_backward_grad_sync = number == len(own) - 1
            loss = ddp([sample])
            (loss * env.world_size / num_taught).backward()  # the mean over ranks comes after
            nll += loss.detach()
        torch.distributed.all_reduce(nll)
        losses.append(float(nll) / num_taught)
        norms.append(float(nn.utils.clip_grad_norm_(named.values(), 0.5)))
        optimizer.step()
    moved = torch.cat([p.detach().reshape(-1) for p in named.values()]) - start
    return losses, norms, moved


def even_training(env: Env, adapter: Adapter | None, layout: Layout | None = None) -> Training:
    """Two steps of 8 samples, the same optimizer as `by_torch`."""
    num_ranks = layout.num_data_ranks if layout else 1
    plan = make_plan(16, micro_batch=1, global_batch=8, world_size=num_ranks, total_steps=2)
    optim = Optim(lr=1e-3, schedule="constant", warmup=0, weight_decay=0.1, max_grad_norm=0.5)
    lengths = [*LENGTHS, 19, 13, 16]
    return build_training(
        tiny_llama(torch.float64), make_samples(lengths), plan, adapter=adapter, optim=optim, env=env, layout=layout
    )  # fmt: skip


def even(env: Env, layout: Layout, adapter: Adapter | None) -> tuple[list[float], list[float], Tensor]:
    """What `by_torch` computes, by whet."""
    training = even_training(env, adapter, layout)
    start = values(training)
    records = run_steps(training)
    return [r.loss for r in records], [r.grad_norm for r in records], values(training) - start


def main(folder: Path, strategies: Sequence[str]) -> None:
    torch.set_num_threads(1)
    env = parallel_env.read_env()
    parallel_env.start(env, torch.device("cpu"))
    try:
        for strategy in strategies:
            parallel = STRATEGIES[strategy]
            layout = make_layout(parallel, env, strategy=parallel.strategy, device_type="cpu")
            found = results(env, layout, RUN[env.world_size, strategy])
            document: dict[str, Any] = {"cases": found.numbers}
            if (env.world_size, strategy) in ASKED_MORE:
                document |= {
                    "live": live_answers(env, layout),
                    "non-finite": non_finite(env, layout),
                    "measured before": measured_before(env, layout),
                }
            for name, adapter in EVEN.items():
                losses, norms, found.moved[name] = even(env, layout, adapter)
                document[name] = [losses, norms]
            _leave(folder, strategy, env, document, found.moved)
        document, moved = {}, {}
        for name, adapter in EVEN.items():
            losses, norms, moved[name] = by_torch(env, adapter)
            document[name] = [losses, norms]
        _leave(folder, "torch", env, document, moved)
    finally:
        parallel_env.stop()


def _leave(folder: Path, strategy: str, env: Env, document: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / f"{strategy}-{env.rank}.safetensors")
    (folder / f"{strategy}-{env.rank}.json").write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
