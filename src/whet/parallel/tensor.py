"""Tensor parallelism of Llama-shaped models: each rank computes its own heads, channels and tokens of every layer.

The parameters become the rank's parts (`shares`), plain tensors like before, and rows travel at the borders of the
blocks (`tensor_group`):

    ids -> embedding (own tokens) -> dealt -> norm -> whole -> attention (own heads)   -> dealt -> + residual
                                              norm -> whole -> MLP       (own channels) -> dealt -> + residual
                                     ... -> last norm -> whole -> head (own tokens), see kernels/loss_head.py

What a block computes inside, its class or the fused functions, knows nothing of it: they find smaller matrices. No
model class is changed; blocks, embedding, last norm and head of this instance do more when they are called. Fused
functions are installed before, as they look at whole blocks; recomputation after, so that it begins at own rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from whet.parallel.shares import SPLIT_INPUTS, own_part, own_range
from whet.parallel.tensor_group import TensorGroup
from whet.parallel.tensor_limits import refuse_model


@dataclass(slots=True)
class _Passage:
    """Hidden states on their way through the ranks of a group; knows the shape of the ids that are in the model."""

    group: TensorGroup
    shape: tuple[int, ...] = (0,)

    def whole(self, x_1LE: Tensor) -> Tensor:
        """All rows, in the shape of the ids."""
        return self.group.whole(x_1LE[0], math.prod(self.shape)).view(*self.shape, -1)

    def dealt(self, x: Tensor) -> Tensor:
        """[1, L, E]: own rows of everyone's sum."""
        return self.group.dealt(x.reshape(-1, x.shape[-1]))[None]


def parallelize(model: Any, group: TensorGroup) -> int:
    """Leave this rank's part of every parameter in `model` (in place) and let rows travel; the first token of its head.

    Masters and the optimizer are made afterwards. RecipeError when the ranks cannot share this model.
    """
    refuse_model(model, group.size)
    first_token = own_range(len(model.get_output_embeddings().weight), group).start
    passage = _Passage(group)
    _split_embedding(model.get_input_embeddings(), passage)
    _note_first_channels(model, group)
    _split_values(model, group)
    _tell_sizes(model)
    decoder = model.get_decoder()
    for layer in decoder.layers:
        for block in (layer.self_attn, layer.mlp):
            block.forward = partial(_pass_through, passage, block.forward)
    decoder.norm.register_forward_hook(lambda _norm, _args, out: passage.whole(out))
    model.get_output_embeddings().register_forward_hook(lambda _head, _args, out: _all_logits(out, group))
    return first_token


def _pass_through(passage: _Passage, block: Callable[..., Any], *args: Tensor, **kwargs: Any) -> Any:
    """Attention takes its input by name, the feed-forward layer by place; attention puts something else behind its
    output."""
    if "hidden_states" in kwargs:
        out = block(*args, **kwargs | {"hidden_states": passage.whole(kwargs["hidden_states"])})
    else:
        out = block(passage.whole(args[0]), *args[1:], **kwargs)
    return (passage.dealt(out[0]), *out[1:]) if isinstance(out, tuple) else passage.dealt(out)


def _all_logits(logits: Tensor, group: TensorGroup) -> Tensor:
    """[..., V] for whoever asks the head itself, like generation; training's loss does not. No gradient."""
    return torch.cat(list(group.gather(logits.detach())), dim=-1)


def _split_embedding(embedding: Any, passage: _Passage) -> None:
    """Another rank's tokens are zeros here; the sum over the ranks has one term that is none."""
    tables = [module for module in embedding.modules() if isinstance(module, nn.Embedding)]
    own = own_range(tables[0].num_embeddings, passage.group)
    look_up = embedding.forward

    def forward(ids: Tensor) -> Tensor:
        passage.shape = ids.shape
        rows = ids - own.start
        is_elsewhere = (rows < 0) | (rows >= len(own))
        found = look_up(rows.clamp(0, len(own) - 1))
        return passage.dealt(found.masked_fill(is_elsewhere[..., None], 0.0))

    embedding.forward = forward
    for table in tables:
        if table.padding_idx is not None:
            # the token whose row gets no gradient from here
            table.padding_idx = table.padding_idx - own.start if table.padding_idx in own else None


def _note_first_channels(model: nn.Module, group: TensorGroup) -> None:
    """Dropout before a layer with split inputs sees some channels of each row; its masks are those of whole rows."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in SPLIT_INPUTS and hasattr(module, "lora_dropout"):
            own = own_range(module.base_layer.weight.shape[1], group)
            for dropout in module.lora_dropout.values():
                if hasattr(dropout, "first_channel"):
                    dropout.first_channel = own.start


def _split_values(model: nn.Module, group: TensorGroup) -> None:
    """A head that is tied to the embedding is one parameter with it."""
    for name, parameter in model.named_parameters():
        part = own_part(name, parameter.data, group)
        if part.shape != parameter.shape:
            parameter.data = part.clone(memory_format=torch.contiguous_format)


def _tell_sizes(model: nn.Module) -> None:
    modules: Iterable[Any] = model.modules()
    for module in modules:
        linear = getattr(module, "base_layer", module)
        if isinstance(linear, nn.Linear):
            module.out_features, module.in_features = linear.weight.shape
        elif isinstance(module, nn.Embedding):
            module.num_embeddings = len(module.weight)
