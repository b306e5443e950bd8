"""Causal attention inside each document of a pack as plain matrix products over the lower triangle only.

The query rows of a document are cut into tiles; a tile sees the keys from its document's beginning to its own last
row, so that nearly half of the score matrix is never computed. Neighbours that are very short share one tile, with
one triangle each on its diagonal. Tiles are contiguous, because torch copies any other operand of a narrow product.

A row may begin with a prefix that all its documents share: it is a document itself, and its keys come before a
document's own. Their gradients are summed over the documents in order.

With S = scale Q K^T, P = softmax(S), O = P V:

    dV = P^T dO    dS = P * (dP - rowsum(dP * P)), dP = dO V^T    dQ = scale dS K    dK = scale dS^T Q

Scores and their softmax are float32 or wider: scores rounded to bfloat16 would be wrong by a share of their size, and
large ones decide. The other products run in the input's dtype; sums over tiles are kept in float32 or wider.

Shape letters: T packed tokens, H query heads, K key/value heads, G = H / K, D head dimension, L tokens of a stretch,
R query rows of a tile, S keys that they see, N = G R.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# Fewer rows waste less of the triangle, more waste less on calls: 64, 96, 128 and 160 differ by 5 %.
ROWS_PER_TILE = 128
# Neighbours share a tile up to this many tokens: beyond it, what they do not see of each other costs more than calls.
_SHARED_TOKENS = 64
# Up to this length the probabilities are kept for the backward pass (a quarter of the time), above it made again.
LONGEST_KEPT = 512


@dataclass(frozen=True, slots=True)
class Tile:
    """The query rows that stand at keys [first, last) of a stretch; they see its keys [0, last)."""

    first: int
    last: int
    triangles: tuple[int, ...]
    """sizes of the causal triangles along the diagonal of the last R keys; sums to R"""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens [start, start + length) of a pack: one document, or a few that share one tile."""

    start: int
    length: int
    tiles: tuple[Tile, ...]
    prefix: int = 0
    """keys from the beginning of the pack that come before the stretch's own"""

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.length)

    @property
    def num_keys(self) -> int:
        return self.prefix + self.length

    def rows_of(self, tile: Tile) -> slice:
        """The tile's query rows in the pack."""
        return slice(self.start + tile.first - self.prefix, self.start + tile.last - self.prefix)


@lru_cache(maxsize=64)
def stretches(lengths: tuple[int, ...], prefix: int = 0) -> tuple[Stretch, ...]:
    """The tiles of a pack, in order; every token is a query row of exactly one. A prefix is the first stretch."""
    out: list[Stretch] = []
    start = 0
    for group in ((prefix,), *_shared(lengths)) if prefix else _shared(lengths):
        length, before = sum(group), prefix if start else 0
        # a remainder of less than half a tile joins the tile before it
        num_tiles = max(1, (length + ROWS_PER_TILE // 2) // ROWS_PER_TILE)
        edges = [*(before + ROWS_PER_TILE * i for i in range(num_tiles)), before + length]
        tiles = (
            Tile(first, last, group if len(group) > 1 else (last - first,)) for first, last in pairwise(edges)
        )  # fmt: skip
        out.append(Stretch(start, length, tuple(tiles), before))
        start += length
    return tuple(out)


def _shared(lengths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Neighbours with `_SHARED_TOKENS` tokens at most together; a longer document stays alone."""
    group: tuple[int, ...] = ()
    for length in lengths:
        if group and sum(group) + length > _SHARED_TOKENS:
            yield group
            group = ()
        group = (*group, length)
    if group:
        yield group


@lru_cache(maxsize=256)
def _bias(triangles: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[R, R]: 0 where a row of a triangle sees a key, -inf elsewhere."""
    sees_RR = torch.block_diag(*(torch.ones(size, size).tril() for size in triangles))
    return torch.zeros_like(sees_RR).masked_fill(sees_RR == 0, float("-inf")).to(device, dtype)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: tuple[int, ...], scale: float, prefix: int
    ) -> Tensor:
        num_kv = len(k_KTD)
        out_THD = q_HTD.new_empty(q_HTD.shape[1], q_HTD.shape[0], q_HTD.shape[2])
        saved: list[Tensor] = []
        for stretch in stretches(lengths, prefix):
            own = [x_KTD[:, stretch.rows].contiguous() for x_KTD in (k_KTD, v_KTD)]
            k_KLD, v_KLD = _seen(saved, own, stretch)
            scaled_k_KLD = _scaled(k_KLD, scale)
            saved += own
            for tile in stretch.tiles:
                rows = stretch.rows_of(tile)
                q_KND = _by_kv_head(q_HTD[:, rows], num_kv)
                p_KNS = _probabilities(q_KND, scaled_k_KLD, tile)
                out_THD[rows] = _to_rows(p_KNS @ v_KLD[:, : tile.last], tile)
                saved += [q_KND, p_KNS] if stretch.num_keys <= LONGEST_KEPT else [q_KND]
        ctx.save_for_backward(*saved)
        ctx.lengths, ctx.scale, ctx.num_kv, ctx.prefix = lengths, scale, num_kv, prefix
        return out_THD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (do_THD,) = grads
        tensors = ctx.saved_tensors
        saved = iter(tensors)
        num_tokens, _, head_dim = do_THD.shape
        dq_THD = torch.empty_like(do_THD)
        dk_TKD, dv_TKD = do_THD.new_empty(2, num_tokens, ctx.num_kv, head_dim)
        of_prefix = None
        for stretch in stretches(ctx.lengths, ctx.prefix):
            k_KLD, v_KLD = _seen(tensors, [next(saved), next(saved)], stretch)
            is_kept = stretch.num_keys <= LONGEST_KEPT
            scaled_k_KLD = k_KLD if is_kept else _scaled(k_KLD, ctx.scale)
            dk_KLD, dv_KLD = grads_2KLD = k_KLD.new_zeros(2, *k_KLD.shape, dtype=_wide(k_KLD.dtype))
            for tile in stretch.tiles:
                rows, keys = stretch.rows_of(tile), slice(0, tile.last)
                q_KND = next(saved)
                p_KNS = next(saved) if is_kept else _probabilities(q_KND, scaled_k_KLD, tile)
                do_KND = _by_kv_head(do_THD[rows].transpose(0, 1), ctx.num_kv)
                dp_KNS = do_KND @ v_KLD[:, keys].transpose(1, 2)
                ds_KNS = torch.ops.aten._softmax_backward_data(dp_KNS, p_KNS, -1, p_KNS.dtype)
                dq_THD[rows] = _to_rows(ds_KNS @ k_KLD[:, keys], tile)
                dk_KLD[:, keys] += ds_KNS.transpose(1, 2) @ q_KND
                dv_KLD[:, keys] += p_KNS.transpose(1, 2) @ do_KND
            dk_KLD.mul_(ctx.scale)
            dk_TKD[stretch.rows] = dk_KLD[:, stretch.prefix :].transpose(0, 1)
            dv_TKD[stretch.rows] = dv_KLD[:, stretch.prefix :].transpose(0, 1)
            if ctx.prefix:
                of_prefix = _add_prefix(of_prefix, grads_2KLD, ctx.prefix)
        if of_prefix is not None:
            dk_TKD[: ctx.prefix], dv_TKD[: ctx.prefix] = of_prefix.transpose(1, 2)
        dq_THD.mul_(ctx.scale)
        return dq_THD.transpose(0, 1), dk_TKD.transpose(0, 1), dv_TKD.transpose(0, 1), None, None, None


def _seen(saved: Sequence[Tensor], own: list[Tensor], stretch: Stretch) -> list[Tensor]:
    """Keys and values that a stretch sees: after those of the prefix, the first that are saved, its own."""
    if not stretch.prefix:
        return own
    return [torch.cat(parts, dim=1) for parts in zip(saved[:2], own, strict=True)]


def _add_prefix(total: Tensor | None, grads_2KLD: Tensor, prefix: int) -> Tensor:
    """[2, K, P, D]: what has come so far for the keys and values of the prefix, and what comes from one stretch."""
    of_stretch_2KPD = grads_2KLD[:, :, :prefix]
    return of_stretch_2KPD.clone() if total is None else total.add_(of_stretch_2KPD)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _scaled(k_KLD: Tensor, scale: float) -> Tensor:
    return k_KLD.to(_wide(k_KLD.dtype)) * scale


def _probabilities(q_KND: Tensor, scaled_k_KLD: Tensor, tile: Tile) -> Tensor:
    """[K, N, S] in q's dtype: softmax over the keys that each row sees, exactly 0 for the others."""
    scores_KNS = q_KND.to(scaled_k_KLD.dtype) @ scaled_k_KLD[:, : tile.last].transpose(1, 2)
    scores_KGRS = scores_KNS.view(len(q_KND), -1, tile.last - tile.first, tile.last)
    scores_KGRS[..., tile.first :] += _bias(tile.triangles, scores_KNS.dtype, q_KND.device)
    return scores_KNS.softmax(-1).to(q_KND.dtype)


def _by_kv_head(x_HRD: Tensor, num_kv: int) -> Tensor:
    """[H, R, D] -> [K, G R, D], contiguous: the query heads that share a key head become rows of one product."""
    return x_HRD.reshape(num_kv, -1, x_HRD.shape[-1])


def _to_rows(x_KND: Tensor, tile: Tile) -> Tensor:
    """[K, G R, D] -> [R, H, D]"""
    return x_KND.view(-1, tile.last - tile.first, x_KND.shape[-1]).transpose(0, 1)


def tiled_attention(
    q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, lengths: tuple[int, ...], scale: float, prefix: int = 0
) -> Tensor:
    """Causal attention inside each document, grouped heads without copies of keys. Returns [T, H, D].

    With `prefix` the row begins with so many tokens that `lengths` does not count and all documents go on from.
    """
    out: Tensor = _TiledAttention.apply(q_HTD, k_KTD, v_KTD, lengths, scale, prefix)
    return out
