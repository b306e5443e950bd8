"""Keys and values of the rows being generated: every row has its own length, so nothing is padded.

Shape letters: B rows in use, K key/value heads, S positions, T packed prompt tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Capacity grows in blocks: the filled part plus less than one block is read in every step, and because a block is
# never sliced, the products read the cache in place (oneDNN copies operands that are not contiguous).
BLOCK = 64


class RowCache:
    """Cache for up to `num_rows` rows; rows 0..B-1 are in use, each filled up to its own length.

    transformers calls `update` once per layer: while prompts are read it files the keys of each packed document
    under its row and hands them back as they are; while decoding it appends one position per row and hands back
    the rows in use up to the capacity.
    """

    def __init__(
        self, *, num_layers: int, num_rows: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype,
        device: torch.device,
    ) -> None:  # fmt: skip
        shape = (2, num_rows, num_kv_heads, 0, head_dim)
        self._layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self._documents: Sequence[tuple[int, int]] = ()
        self._positions_B: Tensor | None = None
        self._rows_B: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Positions per row; `bias_BS` of the decoding step must have this many columns."""
        return self._layers[0].shape[3]

    def _reserve(self, length: int) -> None:
        missing = length - self.capacity
        if missing > 0:
            extra = (missing + BLOCK - 1) // BLOCK * BLOCK
            for i, old in enumerate(self._layers):
                self._layers[i] = torch.cat([old, old.new_zeros(*old.shape[:3], extra, old.shape[4])], dim=3)

    def read_prompts(self, documents: Sequence[tuple[int, int]]) -> None:
        """The next forward pass is one packed row of documents: (row, length) each, in order."""
        self._reserve(max(length for _, length in documents))
        self._documents = documents
        self._positions_B = None

    def append(self, positions_B: Tensor) -> None:
        """The next forward pass adds one token per row at `positions_B` (int64, on the cache's device)."""
        self._positions_B = positions_B
        self._rows_B = torch.arange(len(positions_B), device=positions_B.device)
        self._reserve(int(positions_B.max()) + 1)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Reading: [1, K, T, D] in and out. Decoding: [B, K, 1, D] in, [B, K, S, D] out."""
        if self._positions_B is not None:
            pairs_B2KD = torch.stack([keys[:, :, 0], values[:, :, 0]], dim=1)
            return self.append_pairs(pairs_B2KD, layer_idx)
        layer_keys, layer_values = self._layers[layer_idx]
        start = 0
        for row, length in self._documents:
            layer_keys[row, :, :length] = keys[0, :, start : start + length]
            layer_values[row, :, :length] = values[0, :, start : start + length]
            start += length
        return keys, values

    def append_pairs(self, pairs_B2KD: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """A new key and value per row, [B, 2, K, D], at the positions given to `append`. -> both, [B, K, S, D]"""
        layer = self._layers[layer_idx]
        # under autocast values come out narrower than the weights
        layer[:, self._rows_B, :, self._positions_B] = pairs_B2KD.to(layer.dtype)
        keys, values = layer[:, : len(pairs_B2KD)]
        return keys, values

    def move(self, source: int, target: int, length: int) -> None:
        """Row `source` takes the place of row `target`, so that the rows in use stay the first ones."""
        for layer in self._layers:
            layer[:, target, :, :length] = layer[:, source, :, :length]

    def get_seq_length(self, *_: Any) -> int:
        """transformers asks for it only when no positions are passed; whet always passes them."""
        return self.capacity
