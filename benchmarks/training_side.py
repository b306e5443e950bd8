"""A `Training` as `whet train` builds it, over rows of a file or made-up ones, and one profiled step of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from whet.data.pipeline import PreparedData, prepare
from whet.data.sampler import order_of
from whet.data.templates import template_for
from whet.models.load import LoadedModel, load_pretrained
from whet.parallel.env import Env
from whet.parallel.mesh import layout_of
from whet.recipe.resolve import resolve
from whet.recipe.schema import Adapter, Batch, Data, Model, Optim, Recipe, Source, Train
from whet.train.callbacks import Callbacks, Requests
from whet.train.loop import Training, train_step
from whet.train.run import build_training
from whet.train.signals import StopRequest
from whet.types import Ledger, StepRecord, TokenizedSample, TokenizedSet

PARTS = {
    "attention": ("_TiledAttention", "aten::scaled_dot_product_attention", "ScaledDotProduct"),
    "loss head": ("_LinearNLL",),
    "feed-forward": ("_LoraMlp",),
    "projections": ("_LoraLinears", "_LoraLinear"),
    "norms": ("_RmsNorm",),
    "rotary embedding": ("_Rotate",),
}
"""operations of a step and the beginnings of the profiler's names of them, forward and backward"""
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::baddbmm_")


def gsm8k_source(num_rows: int) -> dict[str, Any]:
    """GSM8K's training rows where WHET_TEST_DATA names a folder with them, else generated problems."""
    data = os.environ.get("WHET_TEST_DATA")
    path = Path(data) / "gsm8k" / "train.jsonl" if data else None
    is_real = path is not None and path.is_file()
    return {"source": str(path.resolve()) if is_real else "reasoning-gym:leg_counting", "rows": num_rows}


def recipe_of(
    model: str, *, dtype: str = "auto", rank: int = 8, dropout: float = 0.0, rows_per_step: int = 8,
    rows_per_pass: int = 8, source: dict[str, Any] | None = None, max_length: int = 1024, seed: int = 42, **train: Any,
) -> Recipe:  # fmt: skip
    """The recipe that a user would write for it."""
    return Recipe(
        name="benchmark",
        output="none",
        seed=seed,
        model=Model(id=model, dtype=dtype),
        adapter=Adapter(rank=rank, alpha=2.0 * rank, dropout=dropout),
        data=Data(train=(Source(**(source or {"source": "none.jsonl"})),), max_length=max_length),
        batch=Batch(global_size=rows_per_step, micro_size=rows_per_pass),
        optim=Optim(lr=2e-4, schedule="constant", warmup=0),
        train=Train(device="cpu", **train),
    )


def made_up_rows(lengths: Sequence[int], vocabulary: int, seed: int = 0) -> TokenizedSet:
    """Rows of random tokens, of which the second half is taught."""
    rng = np.random.default_rng(seed)
    samples = [
        TokenizedSample(
            id=str(i), ids=rng.integers(3, vocabulary, n).astype(np.int32), taught=np.arange(n) >= max(1, n // 2)
        )
        for i, n in enumerate(lengths)
    ]
    return TokenizedSet(
        samples=samples,
        lengths=np.array(lengths, dtype=np.int32),
        num_taught=np.array([s.num_taught for s in samples], dtype=np.int32),
        source_sizes=(len(samples),),
        ledger=Ledger(name="train", num_rows=len(samples), num_kept=len(samples), rows=()),
        fingerprint="made up",
    )


def build(recipe: Recipe, *, rows: Sequence[int] = (), env: Env | None = None) -> tuple[Training, LoadedModel]:
    """The recipe's rows or, where `rows` are lengths, made-up ones; through the same builder as `whet train`."""
    env, device = env or Env(), torch.device("cpu")
    loaded = load_pretrained(recipe.model, device=device)
    if rows:
        data = PreparedData(
            train=made_up_rows(rows, loaded.model.config.vocab_size), validation=None, evaluate={},
            template=template_for(loaded.tokenizer, recipe.data, loaded.stop_ids), ledgers=(), quarantine=(), notes=(),
        )  # fmt: skip
    else:
        data = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd())
    order = order_of(recipe, data.train)
    plan = resolve(
        recipe, world_size=env.world_size, num_samples=order.num_units, num_threads=torch.get_num_threads(),
        compute_dtype=str(loaded.compute_dtype).removeprefix("torch."),
    )  # fmt: skip
    layout = layout_of(recipe.parallel, env, strategy="replicate")
    training = build_training(
        recipe, plan, env, layout, device, loaded, data, order, Callbacks([]), is_restored=False
    )  # fmt: skip
    return training, loaded


def run_steps(run: Training, steps: Iterable[int]) -> list[StepRecord]:
    """The given 0-based steps, by the loop's own step."""
    return [train_step(run, step, asked=Requests(), stop=StopRequest())[0] for step in steps]


def profiled(work: Callable[[], Any]) -> dict[str, Any]:
    """Where the time of `work` went: shares of a step's operations, of all products, and the longest operators.

    A share is of the processor time of the main thread and autograd's; the profiler itself makes small operators slower
    than they are.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)

    def share(names: tuple[str, ...]) -> float:
        # an operator of torch and its node of the graph nest: the outermost names alone are listed
        return sum(e.cpu_time_total for e in events if e.key.startswith(names) and not _is_node(e.key)) / total

    own = sorted(events, key=lambda event: -event.self_cpu_time_total)
    return {
        "seconds": total / 1e6,
        "share_of_products": sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / total,
        "shares": {part: share(names) for part, names in PARTS.items()},
        "longest": [
            {"operator": e.key, "seconds": e.self_cpu_time_total / 1e6, "calls": e.count} for e in own[:12]
        ],
    }  # fmt: skip


def _is_node(key: str) -> bool:
    return key.startswith("autograd::engine")
