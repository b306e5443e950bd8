"""One measured run of whet: its own `Training` and `train_step` over given samples, in a process of its own."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from machine import peak_memory_bytes
from whet.data.sampler import epoch_order
from whet.kernels import select
from whet.kernels.dropout import DropoutState, StatelessDropout
from whet.models.adapters import ADAPTER_NAME, Trainables, attach_lora
from whet.models.load import LoadedModel, load_pretrained
from whet.optim.build import build_optimizer
from whet.parallel.env import Env
from whet.recipe.resolve import resolve
from whet.recipe.schema import Batch, Data, Model, Recipe, Source, Train
from whet.train.callbacks import Best, Callbacks, Requests
from whet.train.loop import Training, train_step
from whet.train.loss import LossModel
from whet.train.signals import StopRequest
from whet.types import TokenizedSample


def recipe_of(job: dict[str, Any]) -> Recipe:
    """The recipe that a user would write for this run (rows aside, which come tokenized)."""
    return Recipe(
        name="benchmark",
        output="none",
        seed=job["seed"],
        model=Model(id=job["model"], dtype=job["dtype"]),
        adapter=job["adapter"],
        data=Data(train=(Source(source="rows.jsonl"),)),
        batch=Batch(global_size=job["batch_rows"], micro_size=job["batch_rows"]),
        optim=job["optim"],
        train=Train(device="cpu", threads=job["threads"]),
    )


def attach(loaded: LoadedModel, recipe: Recipe, dropout: DropoutState) -> Trainables:
    """The recipe's adapter with whet's own first values."""
    return attach_lora(
        loaded.model,
        recipe.adapter,
        seed=recipe.seed,
        identity=loaded.identity,
        make_dropout=lambda p, name: StatelessDropout(p, module_name=name, state=dropout),
    )


def build(job: dict[str, Any]) -> Training:
    """What `whet.train.run` builds, over the samples of the job in the order of the job."""
    recipe = recipe_of(job)
    loaded = load_pretrained(recipe.model, device=torch.device("cpu"))
    dropout = DropoutState(recipe.seed)
    trainables = attach(loaded, recipe, dropout)
    trainables.load(load_file(job["first_adapter"]))
    samples = [_sample(i, row) for i, row in enumerate(job["rows"])]
    # the sampler permutes; placing row k where its k-th draw falls makes the order the job's own
    order = epoch_order(len(samples), seed=recipe.seed, epoch=0)
    placed = dict(zip(order.tolist(), samples, strict=True))
    return Training(
        plan=resolve(recipe, world_size=1, num_samples=len(samples), num_threads=job["threads"]),
        seed=recipe.seed,
        optim=recipe.optim,
        env=Env(),
        device=torch.device("cpu"),
        model=loaded.model,
        loss_model=LossModel(
            backbone=loaded.model.model,
            head=loaded.model.get_output_embeddings(),
            compute_dtype=loaded.compute_dtype,
            uses_autocast=False,
        ),
        kernels=select.install(loaded.model, adapter_name=ADAPTER_NAME),
        trainables=trainables,
        optimizer=build_optimizer(trainables.named, recipe.optim),
        dropout=dropout,
        samples=[placed[i] for i in range(len(samples))],
        validation=(),
        callbacks=Callbacks([]),
        best=Best(),
        save=lambda step: Path("nowhere"),
    )


def _sample(number: int, row: dict[str, Any]) -> TokenizedSample:
    import numpy as np

    labels = np.array(row["labels"])
    return TokenizedSample(id=str(number), ids=np.array(row["input_ids"], dtype=np.int32), taught=labels != -100)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train every row once; the clock starts when the first step is done."""
    torch.set_num_threads(job["threads"])
    training = build(job)
    stop, nothing = StopRequest(), Requests()
    records, ends = [], []
    for step in range(training.plan.total_steps):
        records.append(train_step(training, step, asked=nothing, stop=stop)[0])
        ends.append(time.monotonic())
    num_tokens = sum(r.num_tokens for r in records[1:])
    return {
        "tokens_per_second": num_tokens / (ends[-1] - ends[0]),
        "seconds_per_step": [b - a for a, b in pairwise(ends)],
        "num_tokens": sum(r.num_tokens for r in records),
        "losses": [r.loss for r in records],
        "padding_share": 0.0,
        "peak_memory_bytes": peak_memory_bytes(),
        "configuration": {
            "weights_dtype": str(training.loss_model.compute_dtype),
            "adapter_dtype": "torch.float32",
            "micro_batch_rows": training.plan.micro_batch,
            "accumulation": training.plan.accumulation,
            "kernels": dict(training.kernels),
        },
    }
