"""Prompts -> generated token ids: greedy, many rows side by side, each at its own length, no padding anywhere.

Prompts are read as packed documents (the training path's attention). While decoding, rows that have finished
leave the batch and waiting prompts take their places, so the batch stays full until the work runs out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from whet.inference.row_cache import RowCache
from whet.kernels.attention import CacheLayout, DocumentLayout

# Prompts read in one forward pass: enough rows for the matrix products, little enough memory.
TOKENS_PER_READ = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How answers are written. Two reports compare only when `str(decoding)` is equal."""

    max_new_tokens: int
    batch_rows: int
    """rows side by side; affects speed and memory, and the text only through rounding"""

    def __str__(self) -> str:
        return f"greedy, at most {self.max_new_tokens} new tokens"


@dataclass(frozen=True, slots=True)
class Completion:
    """New token ids of one prompt; a stop token, if any, is the last of them."""

    ids: tuple[int, ...]
    has_stopped: bool
    """False when the length limit ended it"""


@dataclass(slots=True)
class _Row:
    index: int
    length: int
    """tokens whose keys are in the cache"""
    new_ids: list[int] = field(default_factory=list)


class _Decoder:
    """One model, one cache, and the rows that are being written."""

    def __init__(
        self, model: nn.Module, prompts: Sequence[Sequence[int]], stop_ids: frozenset[int], decoding: Decoding
    ) -> None:
        config = model.config
        self._backbone: nn.Module = model.model  # type: ignore[assignment]
        self._head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        self._prompts, self._stop_ids, self._decoding = prompts, stop_ids, decoding
        weight = next(model.parameters())
        self._device, self._dtype = weight.device, weight.dtype
        self._num_slots = min(decoding.batch_rows, len(prompts))
        self._cache = RowCache(
            num_layers=config.num_hidden_layers,  # type: ignore[union-attr,arg-type]
            num_rows=self._num_slots,
            num_kv_heads=config.num_key_value_heads,  # type: ignore[union-attr,arg-type]
            head_dim=_head_dim(config),
            dtype=self._dtype,
            device=self._device,
        )
        self.rows: list[_Row] = []

    def free_slots(self) -> int:
        return self._num_slots - len(self.rows)

    def admit(self, indices: Sequence[int]) -> None:
        """Read prompts into free slots, several to a forward pass, and take each one's first new token."""
        start = 0
        while start < len(indices):
            stop, num_tokens = start, 0
            while stop < len(indices) and (stop == start or num_tokens < TOKENS_PER_READ):
                num_tokens += len(self._prompts[indices[stop]])
                stop += 1
            self._read(indices[start:stop])
            start = stop

    def _read(self, indices: Sequence[int]) -> None:
        lengths = [len(self._prompts[i]) for i in indices]
        first_row = len(self.rows)
        self._cache.read_prompts([(first_row + k, n) for k, n in enumerate(lengths)])
        ids_T = torch.tensor([t for i in indices for t in self._prompts[i]], device=self._device)
        positions_T = torch.cat([torch.arange(n) for n in lengths]).to(self._device)
        hidden_TE = self._forward(ids_T[None], positions_T[None], DocumentLayout(tuple(lengths)))[0]
        last = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        self.rows += [_Row(i, n) for i, n in zip(indices, lengths, strict=True)]
        self._take(self.rows[first_row:], hidden_TE[last])

    def step(self) -> None:
        """One more token for every row."""
        lengths_B = torch.tensor([r.length for r in self.rows], device=self._device)
        ids_B = torch.tensor([r.new_ids[-1] for r in self.rows], device=self._device)
        self._cache.append(lengths_B)
        visible_BS = torch.arange(self._cache.capacity, device=self._device)[None] <= lengths_B[:, None]
        bias_BS = torch.zeros(visible_BS.shape, dtype=torch.promote_types(self._dtype, torch.float32))
        bias_BS = bias_BS.to(self._device).masked_fill_(~visible_BS, float("-inf"))
        hidden_B1E = self._forward(ids_B[:, None], lengths_B[:, None], CacheLayout(bias_BS))
        for row in self.rows:
            row.length += 1
        self._take(self.rows, hidden_B1E[:, 0])

    def _forward(self, ids: Tensor, positions: Tensor, layout: DocumentLayout | CacheLayout) -> Tensor:
        out = self._backbone(
            input_ids=ids, position_ids=positions, attention_mask=None, past_key_values=self._cache,
            use_cache=True, layout=layout,
        )  # fmt: skip
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _take(self, rows: Sequence[_Row], hidden_BE: Tensor) -> None:
        # max() is four times faster than argmax() in bfloat16 on CPUs and finds the same position
        tokens = self._head(hidden_BE).max(-1).indices.tolist()
        for row, token in zip(rows, tokens, strict=True):
            row.new_ids.append(token)

    def collect(self) -> list[tuple[int, Completion]]:
        """Take the finished rows out; the last rows move into their places."""
        finished = []
        k = 0
        while k < len(self.rows):
            row = self.rows[k]
            has_stopped = row.new_ids[-1] in self._stop_ids
            if not (has_stopped or len(row.new_ids) >= self._decoding.max_new_tokens):
                k += 1
                continue
            finished.append((row.index, Completion(tuple(row.new_ids), has_stopped)))
            moved = self.rows.pop()
            if k < len(self.rows):
                self._cache.move(len(self.rows), k, moved.length)
                self.rows[k] = moved
        return finished


def _head_dim(config: object) -> int:
    head_dim = getattr(config, "head_dim", None)
    return int(head_dim or config.hidden_size // config.num_attention_heads)  # type: ignore[attr-defined]


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: frozenset[int],
    decoding: Decoding,
    on_finished: Callable[[int, int], None] = lambda _index, _num_finished: None,
) -> list[Completion]:
    """Greedy completions of `prompts` (token ids), in their order.

    `model` is a Llama-shaped causal language model with `kernels.attention` installed. `on_finished(prompt index,
    number finished so far)` is told of every row that ends. In float32 each completion equals the one the prompt
    gets alone (up to ties of rounding); the longest prompts go first, so that the cache is filled evenly.
    """
    if not prompts:
        return []
    model.eval()
    decoder = _Decoder(model, prompts, stop_ids, decoding)
    waiting = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    finished: dict[int, Completion] = {}
    # reading a handful of prompts at once costs little more than reading one
    refill = max(1, min(decoding.batch_rows, len(prompts)) // 4)
    while waiting or decoder.rows:
        free = decoder.free_slots()
        if waiting and (free >= min(refill, len(waiting)) or not decoder.rows):
            decoder.admit(waiting[:free])
            waiting = waiting[free:]
        else:
            decoder.step()
        for index, completion in decoder.collect():
            finished[index] = completion
            on_finished(index, len(finished))
    return [finished[i] for i in range(len(prompts))]
