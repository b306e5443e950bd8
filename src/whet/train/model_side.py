"""The model as a run trains it: what of it trains, which functions compute it, and where its weights lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from whet.data.sampler import Order
from whet.errors import StorageError
from whet.kernels import compile as layer_compile
from whet.kernels import fp8_linear, recompute, select
from whet.kernels.dropout import DropoutState, StatelessDropout
from whet.kernels.loss_head_libraries import SENTENCES, refuse_unusable
from whet.models.adapter_init import START_NAME
from whet.models.adapters import (
    ADAPTER_NAME,
    Trainables,
    attach_lora,
    free_all_weights,
    train_all_weights,
)
from whet.models.load import LoadedModel
from whet.models.weight_forms import weights_form
from whet.parallel.mesh import Layout
from whet.parallel.reduce import broadcast_from_main, gather_texts
from whet.parallel.wrap import Sharding, wrap
from whet.recipe.schema import Recipe
from whet.train.first_rows import first_losses
from whet.train.loss import LossModel
from whet.train.shared_layers import share_layers, split_parameters
from whet.types import RunPlan, TokenizedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSide:
    """What `set_up_model` made of a loaded model, which it changed in place."""

    loss_model: LossModel
    trainables: Trainables
    kernels: Mapping[str, str]
    """which fast paths run, for the summary"""
    sharding: Sharding
    split: frozenset[Tensor]
    """parameters that ranks which share layers hold in parts"""
    dropout: DropoutState


def set_up_model(
    recipe: Recipe, plan: RunPlan, loaded: LoadedModel, layout: Layout, device: torch.device,
    samples: Sequence[TokenizedSample], order: Order, *, is_restored: bool,
) -> ModelSide:  # fmt: skip
    """Attach the adapter or free all weights, install the functions, and shard; all ranks call it.

    Sharding comes last: until then the functions look at whole weights, wherever these lie. `samples` and `order` are
    for adapters that start from the first rows.
    """
    refuse_unusable(plan.loss_head, device)
    model, dropout = loaded.model, DropoutState(recipe.seed)
    loss_model = _loss_model(recipe, plan, loaded)
    adapter = None
    if recipe.adapter.method == "none":
        free_all_weights(model, weights_form(recipe.optim))
    else:
        adapter = attach_lora(
            model,
            recipe.adapter,
            seed=recipe.seed,
            identity=loaded.identity,
            make_dropout=lambda p, name: StatelessDropout(p, module_name=name, state=dropout),
            losses=partial(first_losses, model, loss_model, samples, order, plan, model.device),
            is_restored=is_restored,
        )
    kernels = _install_functions(recipe, plan, loaded, layout, device, has_adapter=adapter is not None)
    if layout.mesh is not None:
        _refuse_other_weights(loaded)
    if layout.num_tensor_ranks > 1:
        share_layers(loss_model, model, layout, adapter, device)
    kernels["recompute"] = recompute.install(model, plan.recompute)
    sharding = shard(loss_model, model, layout, adapter, device)
    kernels |= sharding_sentence(layout)
    trainables = adapter or train_all_weights(model, weights_form(recipe.optim))
    if layout.num_tensor_ranks == 1:
        broadcast_from_main(trainables.all_values.values())
    return ModelSide(
        loss_model=loss_model,
        trainables=trainables,
        kernels=kernels,
        sharding=sharding,
        split=split_parameters(trainables, layout),
        dropout=dropout,
    )


def shard(
    loss_model: LossModel, model: nn.Module, layout: Layout, adapter: Trainables | None, device: torch.device
) -> Sharding:
    """Cut the weights into parts, where the layout wants that.

    What trains of an adapter stays whole: it is small, float32 beside a narrow base, and its gradients then travel once
    a step, whatever the number of passes. So do vectors (norm weights) where all weights train: they stay as wide as
    they are while matrices are gathered in the format of the products.
    """
    whole = [p for p in model.parameters() if p.ndim < 2] if adapter is None else list(adapter.all_values.values())
    return wrap(
        loss_model,
        layout,
        blocks=list(model.get_decoder().layers),  # type: ignore[operator]
        whole=whole,
        device=device,
        gathered_dtype=loss_model.compute_dtype if loss_model.uses_autocast else None,
        methods=("nll_sum", "evaluate"),
    )


def sharding_sentence(layout: Layout) -> dict[str, str]:
    """For the summary: nothing where every rank holds all weights."""
    said = {}
    if layout.num_tensor_ranks > 1:
        said["layers"] = f"shared by {layout.num_tensor_ranks} ranks, each with its own heads, channels and tokens"
    if not layout.is_sharded:
        return said
    copies = f", {layout.num_replicas} copies" if layout.num_replicas > 1 else ""
    said["weights"] = f"in {layout.num_shards} parts{copies} ({layout.strategy}), gathered layer by layer"
    return said


def why_not_compiled(recipe: Recipe, plan: RunPlan, layout: Layout) -> str | None:
    """The reason for which the layers of this run are not compiled; None where they can be."""
    if layout.mesh is not None:
        return "ranks share the weights or the work of the layers"
    return layer_compile.why_not(has_adapter=recipe.adapter.method != "none", recompute=plan.recompute)


def _install_functions(
    recipe: Recipe, plan: RunPlan, loaded: LoadedModel, layout: Layout, device: torch.device, *, has_adapter: bool
) -> dict[str, str]:
    kernels = select.install(
        loaded.model,
        adapter_name=ADAPTER_NAME if has_adapter else None,
        start_name=START_NAME,
        off=layer_compile.TAKES_OVER if plan.is_compiled else frozenset(),
        longest_matmul_document=plan.longest_matmul_document,
        attention_kind=plan.attention,
        compute_dtype=loaded.compute_dtype,
        device=device,
    )
    if (base := fp8_linear.describe(loaded.model, num_kept=len(plan.not_in_float8))) is not None:
        kernels["frozen base"] = base
    kernels["loss head"] = SENTENCES[plan.loss_head]
    if plan.is_compiled:
        kernels["compile"] = layer_compile.install(loaded.model)
    elif recipe.train.compile:
        kernels["compile"] = f"not used: {why_not_compiled(recipe, plan, layout)}"
    return kernels


def _loss_model(recipe: Recipe, plan: RunPlan, loaded: LoadedModel) -> LossModel:
    is_widened = recipe.adapter.method == "none" and weights_form(recipe.optim) == "wide"
    return LossModel(
        backbone=loaded.model.model,
        head=loaded.model.get_output_embeddings(),
        compute_dtype=loaded.compute_dtype,
        uses_autocast=is_widened and loaded.compute_dtype == torch.bfloat16,
        loss_head=plan.loss_head,
    )


def _refuse_other_weights(loaded: LoadedModel) -> None:
    """Parts of different models would make one that nobody meant."""
    found = sorted(set(gather_texts(loaded.identity.weights_sha256)))
    if len(found) > 1:
        raise StorageError(
            f"ranks have read different weights of {loaded.identity.id} ({', '.join(each[:12] for each in found)})",
            mend="let all nodes read the same files",
        )
