"""A tiny random Llama, token samples for it, and a `Training` over them without a recipe, a folder or a hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from whet.data.sampler import Order
from whet.evaluation.live import LiveSet
from whet.kernels import recompute, select
from whet.kernels.dropout import DropoutState, StatelessDropout
from whet.kernels.recompute import Recompute
from whet.models.adapter_init import START_NAME
from whet.models.adapters import (
    ADAPTER_NAME,
    Trainables,
    attach_lora,
    free_all_weights,
    train_all_weights,
)
from whet.models.weight_forms import weights_form
from whet.optim.build import build_optimizer
from whet.parallel.env import Env
from whet.parallel.mesh import Layout, layout_of
from whet.recipe.schema import Adapter, Optim, Parallel
from whet.train.best import Best
from whet.train.callbacks import Callback, Callbacks, Requests
from whet.train.loop import Training, train_step
from whet.train.loss import LossModel
from whet.train.model_side import shard
from whet.train.saves import Saves
from whet.train.shared_layers import share_layers, split_parameters
from whet.train.signals import StopRequest
from whet.types import ModelIdentity, RunPlan, StepRecord, TokenizedSample

VOCAB = 500
IDENTITY = ModelIdentity(id="tiny", revision=None, weights_sha256="0" * 64)
LORA = Adapter(rank=4, alpha=8.0)
FIRST_ROWS = (40, 33, 25)
"""tokens of the rows that a start looks at"""


def tiny_llama(
    dtype: torch.dtype = torch.float64, *, seed: int = 0, is_tied: bool = True, num_kv_heads: int = 2
) -> LlamaForCausalLM:
    """2 layers, 4 heads; weights spread widely enough that logits are not flat."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=num_kv_heads, max_position_embeddings=256, tie_word_embeddings=is_tied,
        initializer_range=0.08, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(dtype).eval()


def make_samples(lengths: Sequence[int], *, seed: int = 0, prompt_share: float = 0.4) -> list[TokenizedSample]:
    """Random ids; the first part of each sample is a prompt, the rest is taught (at least one token)."""
    rng = np.random.default_rng(seed)
    samples = []
    for number, length in enumerate(lengths):
        taught = np.arange(length) >= min(max(1, int(prompt_share * length)), length - 1)
        ids = rng.integers(3, VOCAB, length).astype(np.int32)
        samples.append(TokenizedSample(id=f"sample-{number}", ids=ids, taught=taught))
    return samples


def make_plan(
    num_samples: int, *, micro_batch: int, global_batch: int, world_size: int = 1, total_steps: int | None = None,
    warmup_steps: int = 0,
) -> RunPlan:  # fmt: skip
    steps_per_epoch = -(-num_samples // global_batch)
    return RunPlan(
        world_size=world_size,
        micro_batch=micro_batch,
        accumulation=global_batch // (micro_batch * world_size),
        global_batch=global_batch,
        num_samples=num_samples,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps or steps_per_epoch,
        epochs=1.0,
        warmup_steps=warmup_steps,
        save_every=0,
        eval_every=0,
    )


def summed_nll(model: nn.Module, sample: TokenizedSample) -> Tensor:
    """One sample alone through an untouched transformers model: full logits, torch's cross-entropy, labels by hand."""
    ids_1T = torch.from_numpy(sample.ids.astype(np.int64))[None]
    logits_TV = model(ids_1T, use_cache=False).logits[0]
    taught = np.flatnonzero(sample.taught[1:])
    return nn.functional.cross_entropy(logits_TV[taught], ids_1T[0, taught + 1], reduction="sum")


def loss_model_of(model: nn.Module) -> LossModel:
    dtype = next(model.parameters()).dtype
    return LossModel(backbone=model.model, head=model.get_output_embeddings(), compute_dtype=dtype, uses_autocast=False)


def attach(
    model: nn.Module, adapter: Adapter, dropout: DropoutState | None = None, *, seed: int = 0,
    is_restored: bool = False, row_lengths: Sequence[int] = FIRST_ROWS,
) -> Trainables:  # fmt: skip
    """LoRA on `model` with whet's stateless dropout; a start that looks at rows sees random tokens."""
    state = dropout or DropoutState(seed)
    rows = make_samples(row_lengths, seed=7)
    return attach_lora(
        model, adapter, seed=seed, identity=IDENTITY,
        make_dropout=lambda p, name: StatelessDropout(p, module_name=name, state=state),
        losses=lambda: (summed_nll(model, row) for row in rows), is_restored=is_restored,
    )  # fmt: skip


def perturb(trainables: Trainables, *, seed: int = 1, size: float = 0.1) -> None:
    """Move every trained tensor away from where it starts (B = 0 would make an adapter test empty)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainables.named.values():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)


def build_training(
    model: nn.Module, samples: Sequence[TokenizedSample], plan: RunPlan, *, adapter: Adapter | None = None,
    optim: Optim | None = None, seed: int = 0, env: Env | None = None, validation: Sequence[TokenizedSample] = (),
    callbacks: Sequence[Callback] = (), is_perturbed: bool = True, order: Order | None = None,
    live: Sequence[LiveSet] = (), best: Best | None = None, layout: Layout | None = None,
    recompute_level: Recompute = "none", uses_autocast: bool = False,
) -> Training:  # fmt: skip
    """What `whet.train.run` builds, for `model`: LoRA where `adapter` is given, else all weights."""
    optim = optim or Optim(lr=1e-3, schedule="constant", warmup=0)
    dropout = DropoutState(seed)
    layout = layout or layout_of(Parallel(), env or Env(), strategy="replicate")
    attached = attach(model, adapter, dropout, seed=seed) if adapter else None
    if attached is None:
        free_all_weights(model, weights_form(optim))
    elif is_perturbed:
        perturb(attached)
    kernels = select.install(model, adapter_name=ADAPTER_NAME if adapter else None, start_name=START_NAME)
    loss_model = loss_model_of(model)
    if layout.num_tensor_ranks > 1:
        share_layers(loss_model, model, layout, attached, torch.device("cpu"))
    recompute.install(model, recompute_level)
    if uses_autocast:
        loss_model.compute_dtype, loss_model.uses_autocast = torch.bfloat16, True
    sharding = shard(loss_model, model, layout, attached, torch.device("cpu"))
    trainables = attached or train_all_weights(model, weights_form(optim))
    told = Callbacks(callbacks)
    return Training(
        plan=plan,
        optim=optim,
        env=env or Env(),
        device=torch.device("cpu"),
        model=model,
        loss_model=loss_model,
        kernels=kernels,
        trainables=trainables,
        optimizer=build_optimizer(
            trainables.named,
            optim,
            lr_ratio=adapter.lr_ratio if adapter else 1.0,
            weights=trainables.weights,
            seed=seed,
        ),
        dropout=dropout,
        samples=samples,
        num_taught=np.array([s.num_taught for s in samples], dtype=np.int32),
        order=order or Order(np.array([s.num_tokens for s in samples], dtype=np.int32), seed=seed),
        validation=validation,
        live=live,
        callbacks=told,
        best=best or Best(),
        saves=Saves(lambda step: lambda: None, run_folder=Path(), env=Env(), callbacks=told),
        layout=layout,
        sharding=sharding,
        split=split_parameters(trainables, layout),
    )


def run_steps(training: Training, steps: Iterable[int] | None = None) -> list[StepRecord]:
    """The given 0-based steps, by default the whole run."""
    steps = range(training.plan.total_steps) if steps is None else steps
    return [train_step(training, step, asked=Requests(), stop=StopRequest())[0] for step in steps]


def values(training: Training) -> Tensor:
    """All trained values as one flat vector; of sharded ones all ranks must ask."""
    return torch.cat([whole(p.detach()).reshape(-1).double() for p in training.trainables.named.values()])


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered, another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradients(training: Training) -> Tensor:
    """All gradients of the last step as one flat vector (clipping off: max_grad_norm=0)."""
    return torch.cat([whole(p.grad).reshape(-1).double() for p in training.trainables.named.values()])


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance of `a` from `b`."""
    return float((a.double() - b.double()).norm() / b.double().norm())
