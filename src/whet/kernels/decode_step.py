"""One new token per row through a plain Llama, without the calls between: what transformers computes, in its order.

A step of a small model is some hundred short operations per layer in transformers' modules, most of the time of few
rows. Here a layer is some twenty, over packed weights. Results equal the modules' up to rounding (tests/numerics).

Shape letters: B rows, E hidden size, H query heads, K key/value heads, D head dimension, S cache length; N = H + 2 K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from whet.kernels.attention import cached_attention
from whet.kernels.packed_linear import Product, products

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_SAME_AS_THE_CLASS = ("whet.kernels.llama_blocks", "whet.kernels.norm")


class Cache(Protocol):
    """Where the rows' keys and values are; see inference/row_cache.py."""

    def append_pairs(self, pairs_B2KD: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """A key and a value per row in; keys and values, each [B, K, S, D], out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    before_attention: Tensor
    before_mlp: Tensor
    eps: Tensor
    """float32 scalar"""
    qkv: Product
    o: Product
    gate: Product
    up: Product
    down: Product


class DecodeStep:
    """Built from a model whose weights stay as they are meanwhile; `build_decode_step` says of which."""

    def __init__(self, model: Any, *, num_rows: int, is_packed: bool) -> None:
        layers = list(model.model.layers)
        groups = [group for layer in layers for group in _groups(layer)] + [[model.get_output_embeddings()]]
        of_groups = products(groups, num_rows=num_rows, is_packed=is_packed)
        self.head = of_groups.pop()
        self._layers = [
            _Layer(
                before_attention=layer.input_layernorm.weight,
                before_mlp=layer.post_attention_layernorm.weight,
                eps=_eps(layer.input_layernorm),
                **dict(zip(("qkv", "o", "gate", "up", "down"), five, strict=True)),
            )
            for layer, five in zip(layers, _in_fives(of_groups), strict=True)
        ]
        attention = layers[0].self_attn
        self._scale, self._head_dim = float(attention.scaling), int(attention.head_dim)
        self._num_heads = [linear.out_features // self._head_dim for linear in _groups(layers[0])[0]]
        self._embed, self._rotary, self._norm = model.model.embed_tokens, model.model.rotary_emb, model.model.norm
        self._last_eps = _eps(self._norm)

    def __call__(self, ids_B: Tensor, positions_B: Tensor, cache: Cache, bias_BS: Tensor) -> Tensor:
        """Hidden states after the last norm, [B, E]. `bias_BS`: 0 where a row sees its cache, -inf elsewhere."""
        x_BE = self._embed(ids_B)
        cos_BND, sin_BND = self._angles(x_BE, positions_B)
        for number, layer in enumerate(self._layers):
            x_BE = self._attend(number, layer, x_BE, cos_BND, sin_BND, cache, bias_BS)
            h_BE = _normed(x_BE, layer.before_mlp, layer.eps)
            x_BE = layer.down.plus(layer.up.times(h_BE, layer.gate.silu(h_BE)), x_BE)
        return _normed(x_BE, self._norm.weight, self._last_eps)

    def _angles(self, x_BE: Tensor, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine for queries, keys and values side by side, N = H + 2 K; values turn by nothing."""
        cos_B1D, sin_B1D = self._rotary(x_BE, positions_B[:, None])
        # half a head further on stands the other one of a pair, with its sign
        sin_B1D = torch.cat([-sin_B1D[..., : self._head_dim // 2], sin_B1D[..., self._head_dim // 2 :]], dim=-1)
        num_q, num_k, num_v = self._num_heads
        still_BKD = cos_B1D.new_zeros(len(x_BE), num_v, self._head_dim)
        cos = torch.cat([cos_B1D.expand(-1, num_q + num_k, -1), still_BKD + 1], dim=1)
        return cos, torch.cat([sin_B1D.expand(-1, num_q + num_k, -1), still_BKD], dim=1)

    def _attend(
        self, number: int, layer: _Layer, x_BE: Tensor, cos_BND: Tensor, sin_BND: Tensor, cache: Cache, bias_BS: Tensor
    ) -> Tensor:
        """The hidden states with the attention's part added."""
        num_rows, (num_q, num_k, _) = len(x_BE), self._num_heads
        heads_BND = layer.qkv(_normed(x_BE, layer.before_attention, layer.eps)).view(num_rows, -1, self._head_dim)
        turned_BND = _turned(heads_BND, cos_BND, sin_BND)
        pairs_B2KD = turned_BND[:, num_q:].view(num_rows, 2, num_k, self._head_dim)
        keys_BKSD, values_BKSD = cache.append_pairs(pairs_B2KD, number)
        out_BHD = cached_attention(turned_BND[:, :num_q].contiguous(), keys_BKSD, values_BKSD, bias_BS, self._scale)
        return layer.o.plus(out_BHD.reshape(num_rows, -1), x_BE)


def build_decode_step(model: nn.Module, *, num_rows: int, is_packed: bool) -> DecodeStep | None:
    """The step of this model, or None where a layer is not as transformers made it: adapted, quantized, of another
    family; or under autocast. `is_packed`: lay the weights out once, which costs as much as a few steps."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda") or not _is_plain_llama(model):
        return None
    return DecodeStep(model, num_rows=num_rows, is_packed=is_packed)


def _is_plain_llama(model: Any) -> bool:
    from transformers.models.llama import modeling_llama as llama

    if type(model) is not llama.LlamaForCausalLM or type(model.model) is not llama.LlamaModel:
        return False
    layers, head = list(model.model.layers), model.get_output_embeddings()
    return (
        type(model.model.embed_tokens) is nn.Embedding
        and type(model.model.norm) is llama.LlamaRMSNorm
        and type(head) is nn.Linear
        and all(type(layer) is llama.LlamaDecoderLayer for layer in layers)
        and all(
            type(layer.self_attn) is llama.LlamaAttention
            and type(layer.mlp) is llama.LlamaMLP
            and type(layer.mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
            and type(layer.input_layernorm) is type(layer.post_attention_layernorm) is llama.LlamaRMSNorm
            and layer.input_layernorm.variance_epsilon == layer.post_attention_layernorm.variance_epsilon
            and all(type(linear) is nn.Linear for linear in _linears(layer))
            for layer in layers
        )
        and not any(_is_replaced(module) for module in model.modules())
    )


def _is_replaced(module: nn.Module) -> bool:
    """Whether this instance computes something else than its class; the functions of these files do not."""
    return "forward" in vars(module) and getattr(module.forward, "__module__", None) not in _SAME_AS_THE_CLASS


def _linears(layer: Any) -> list[Any]:
    return [getattr(layer.self_attn, name) for name in _ATTENTION] + [getattr(layer.mlp, name) for name in _MLP]


def _in_fives(each: list[Product]) -> list[list[Product]]:
    return [each[start : start + 5] for start in range(0, len(each), 5)]


def _groups(layer: Any) -> list[list[Any]]:
    """Layers that read the same input stand together, but gate and up: what follows them differs."""
    q, k, v, *others = _linears(layer)
    return [[q, k, v], *([other] for other in others)]


def _eps(norm: Any) -> Tensor:
    return torch.tensor(norm.variance_epsilon, dtype=torch.float32, device=norm.weight.device)


def _normed(x_BE: Tensor, weight_E: Tensor, eps: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) in float32, rounded, times the weight (arXiv:1910.07467, equation 4).

    The modules round to float32 even in float64; wider formats so take the same sums in the same order.
    """
    if x_BE.dtype.itemsize > 2:
        return weight_E * functional.rms_norm(x_BE.float(), x_BE.shape[-1:], None, float(eps)).to(x_BE.dtype)
    length_B1 = torch.linalg.vector_norm(x_BE, dim=-1, keepdim=True, dtype=torch.float32)
    inverse_B1 = torch.addcmul(eps, length_B1, length_B1, value=1 / x_BE.shape[-1]).rsqrt_()
    return torch.mul(x_BE, inverse_B1, out=torch.empty_like(x_BE)).mul_(weight_E)


def _turned(x_BND: Tensor, cos_BND: Tensor, signed_sin_BND: Tensor) -> Tensor:
    """Rotary positions (arXiv:2104.09864) in Llama's arrangement: pairs are half a head apart."""
    other_BND = x_BND.roll(x_BND.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_BND * cos_BND, other_BND, signed_sin_BND)
