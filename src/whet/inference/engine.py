"""Prompts -> completions: greedy or sampled, many rows side by side, each at its own length, no padding anywhere.

Prompts are read as packed documents (the training path's attention). While decoding, rows that have finished
leave the batch and waiting prompts take their places, so the batch stays full until the work runs out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from whet.errors import DataError
from whet.inference.decoding import Decoding
from whet.inference.growing_text import Decode, GrowingText
from whet.inference.row_cache import RowCache
from whet.inference.sampling import row_stream, sample
from whet.kernels.attention import CacheLayout, DocumentLayout
from whet.kernels.decode_step import build_decode_step
from whet.kernels.packed_linear import Product
from whet.shortage import MAYBE_SHORTAGE, is_shortage, release

__all__ = ["Completion", "Decoding", "Ended", "generate", "refuse_long_prompts", "stream", "warn_of_fewer_rows"]

Ended = Literal["stop_token", "stop_string", "length"]
# Packing the weights takes about as long as one step saves a few times over.
STEPS_WORTH_PACKING = 8
# Prompts read in one forward pass: enough rows for the matrix products, little enough memory.
TOKENS_PER_READ = 2048
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What was written for one prompt."""

    ids: tuple[int, ...]
    """new token ids, all that were computed: a stop token is the last of them, a stop string's are there too"""
    ended: Ended
    text: str | None = None
    """the answer: without stop token, cut before a stop string; None when `generate` was given no `decode`"""

    @property
    def has_stopped(self) -> bool:
        """Whether the answer ended by itself, not at the length limit."""
        return self.ended != "length"


@dataclass(slots=True)
class _Row:
    index: int
    length: int
    """tokens whose keys are in the cache"""
    limit: int
    """most new tokens"""
    stream: np.random.Generator | None
    """None when greedy"""
    growing: GrowingText | None
    """None where nobody looks at the text before its end"""
    new_ids: list[int] = field(default_factory=list)
    ended: Ended | None = None
    cut_text: str | None = None
    """the answer before its stop string"""


class _Decoder:
    """One model, one cache, and the rows that are being written."""

    def __init__(
        self, model: nn.Module, prompts: Sequence[Sequence[int]], keys: Sequence[str], stop_ids: frozenset[int],
        decoding: Decoding, decode: Decode | None, is_streamed: bool = False,
    ) -> None:  # fmt: skip
        config = model.config
        self._backbone: nn.Module = model.model  # type: ignore[assignment]
        self.prompts, self._keys, self._stop_ids = prompts, keys, stop_ids
        self._decoding, self._decode = decoding, decode
        self._follows_text = is_streamed or bool(decoding.stop_strings)
        weight = next(model.parameters())
        self._device, self._dtype = weight.device, weight.dtype
        self.num_slots = min(decoding.batch_rows, len(prompts))
        self._fast_step = build_decode_step(
            model, num_rows=self.num_slots, is_packed=decoding.max_new_tokens >= STEPS_WORTH_PACKING
        )
        self._head: Product = self._fast_step.head if self._fast_step else model.get_output_embeddings()  # type: ignore[operator]
        self._cache = RowCache(
            num_layers=config.num_hidden_layers,  # type: ignore[union-attr,arg-type]
            num_rows=self.num_slots,
            num_kv_heads=_num_kv_heads(model),
            head_dim=_head_dim(config),
            dtype=self._dtype,
            device=self._device,
        )
        self.rows: list[_Row] = []

    def free_slots(self) -> int:
        return self.num_slots - len(self.rows)

    def admit(self, indices: Sequence[int]) -> None:
        """Read prompts into free slots, several to a forward pass, and take each one's first new token."""
        start = 0
        while start < len(indices):
            stop, num_tokens = start, 0
            while stop < len(indices) and (stop == start or num_tokens < TOKENS_PER_READ):
                num_tokens += len(self.prompts[indices[stop]])
                stop += 1
            self._read(indices[start:stop])
            start = stop

    def _read(self, indices: Sequence[int]) -> None:
        lengths = [len(self.prompts[i]) for i in indices]
        first_row = len(self.rows)
        self._cache.read_prompts([(first_row + k, n) for k, n in enumerate(lengths)])
        ids_T = torch.tensor([t for i in indices for t in self.prompts[i]], device=self._device)
        positions_T = torch.cat([torch.arange(n) for n in lengths]).to(self._device)
        hidden_TE = self._forward(ids_T[None], positions_T[None], DocumentLayout(tuple(lengths)))[0]
        last = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        self.rows += [self._begin(index) for index in indices]
        self._take(self.rows[first_row:], hidden_TE[last])

    def _begin(self, index: int) -> _Row:
        settings, length = self._decoding, len(self.prompts[index])
        room = settings.max_new_tokens if settings.max_total_tokens is None else settings.max_total_tokens - length
        return _Row(
            index=index,
            length=length,
            limit=min(settings.max_new_tokens, room),
            stream=None if settings.is_greedy else row_stream(settings.seed, self._keys[index]),
            growing=GrowingText(self._decode, settings.stop_strings) if self._follows_text and self._decode else None,
        )

    def step(self) -> None:
        """One more token for every row."""
        lengths_B = torch.tensor([r.length for r in self.rows], device=self._device)
        ids_B = torch.tensor([r.new_ids[-1] for r in self.rows], device=self._device)
        self._cache.append(lengths_B)
        visible_BS = torch.arange(self._cache.capacity, device=self._device)[None] <= lengths_B[:, None]
        bias_BS = torch.zeros(visible_BS.shape, dtype=torch.promote_types(self._dtype, torch.float32))
        bias_BS = bias_BS.to(self._device).masked_fill_(~visible_BS, float("-inf"))
        if self._fast_step:
            hidden_BE = self._fast_step(ids_B, lengths_B, self._cache, bias_BS)
        else:
            hidden_BE = self._forward(ids_B[:, None], lengths_B[:, None], CacheLayout(bias_BS))[:, 0]
        for row in self.rows:
            row.length += 1
        self._take(self.rows, hidden_BE)

    def _forward(self, ids: Tensor, positions: Tensor, layout: DocumentLayout | CacheLayout) -> Tensor:
        out = self._backbone(
            input_ids=ids, position_ids=positions, attention_mask=None, past_key_values=self._cache,
            use_cache=True, layout=layout,
        )  # fmt: skip
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _take(self, rows: Sequence[_Row], hidden_BE: Tensor) -> None:
        for row, token in zip(rows, self._choose(rows, self._head(hidden_BE)).tolist(), strict=True):
            row.new_ids.append(token)
            if token in self._stop_ids:
                row.ended = "stop_token"
            elif row.growing is not None and (text := row.growing.add(token)) is not None:
                row.ended, row.cut_text = "stop_string", text
            elif len(row.new_ids) >= row.limit:
                row.ended = "length"

    def _choose(self, rows: Sequence[_Row], logits_BV: Tensor) -> Tensor:
        settings = self._decoding
        if settings.is_greedy:
            # max() is four times faster than argmax() in bfloat16 on CPUs and finds the same position
            return logits_BV.max(-1).indices
        uniforms_B = torch.tensor([row.stream.random() for row in rows if row.stream], dtype=torch.float64)
        return sample(
            logits_BV, uniforms_B, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p
        )

    def collect(self) -> list[tuple[int, Completion]]:
        """Take the finished rows out; the last rows move into their places."""
        finished = []
        k = 0
        while k < len(self.rows):
            row = self.rows[k]
            if row.ended is None:
                k += 1
                continue
            finished.append((row.index, Completion(ids=tuple(row.new_ids), ended=row.ended, text=self._text(row))))
            moved = self.rows.pop()
            if k < len(self.rows):
                self._cache.move(len(self.rows), k, moved.length)
                self.rows[k] = moved
        return finished

    def _text(self, row: _Row) -> str | None:
        if self._decode is None or row.cut_text is not None:
            return row.cut_text
        return self._decode(row.new_ids[:-1] if row.ended == "stop_token" else row.new_ids)


def _head_dim(config: object) -> int:
    head_dim = getattr(config, "head_dim", None)
    return int(head_dim or config.hidden_size // config.num_attention_heads)  # type: ignore[attr-defined]


def _num_kv_heads(model: Any) -> int:
    """Key heads that this process computes; where ranks share each layer, some of the model's."""
    keys = model.model.layers[0].self_attn.k_proj
    return int(keys.out_features) // _head_dim(model.config)


def warn_of_fewer_rows(num_rows: int) -> None:
    """What is said where nobody else asks to be told."""
    rows = "one row at a time" if num_rows == 1 else f"{num_rows} rows side by side"
    _log.warning("out of memory: the rest is written with %s", rows)


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: frozenset[int],
    decoding: Decoding,
    keys: Sequence[str] | None = None,
    decode: Decode | None = None,
    on_finished: Callable[[int, int], None] = lambda _index, _num_finished: None,
    may_halve: bool = True,
    on_fewer_rows: Callable[[int], None] = warn_of_fewer_rows,
) -> list[Completion]:
    """Completions of `prompts` (token ids), in their order.

    `model` is a Llama-shaped causal language model with `kernels.attention` installed. `keys` (one per prompt, example
    ids; by default the position) seed what a row draws when sampling. `decode` makes the text; stop strings need it.
    `on_finished(prompt index, number finished so far)` is told of every row that ends. In float32 each completion
    equals the one the prompt gets alone (up to ties of rounding); the longest prompts go first, so that the cache is
    filled evenly. DataError names a prompt that is empty or leaves no room for an answer.

    Where memory runs out, rows that are not finished are written anew, half as many side by side, down to one, unless
    `may_halve` is off (other ranks take part); `on_fewer_rows` is told how many.
    """
    if not prompts:
        return []
    assert decode is not None or not decoding.stop_strings, "stop strings are looked for in decoded text"
    names = list(keys) if keys is not None else [str(index) for index in range(len(prompts))]
    finished: dict[int, Completion] = {}
    while True:
        try:
            _write_all(_open_decoder(model, prompts, names, stop_ids, decoding, decode), finished, on_finished)
            return [finished[i] for i in range(len(prompts))]
        except MAYBE_SHORTAGE as error:
            num_rows = min(decoding.batch_rows, len(prompts) - len(finished)) // 2
            if not (may_halve and num_rows and is_shortage(error)):
                raise
        release()
        decoding = replace(decoding, batch_rows=num_rows)
        on_fewer_rows(num_rows)


@torch.inference_mode()
def stream(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    stop_ids: frozenset[int],
    decoding: Decoding,
    decode: Decode,
    key: str = "0",
) -> Iterator[str | Completion]:
    """The answer that `generate` gives to this prompt alone, while it is written; the last value is its `Completion`.

    Before that comes a piece of text for every token: empty while a character is unfinished or a stop string may have
    begun. Joined, the pieces are the completion's text. Who stops asking stops the work. DataError as in `generate`.
    """
    decoder = _open_decoder(model, [prompt], [key], stop_ids, decoding, decode, is_streamed=True)
    decoder.admit([0])
    told = ""
    while (row := decoder.rows[0]).ended is None:
        assert row.growing is not None
        text = row.growing.steady_text()
        yield text[len(told) :]
        told = text
        decoder.step()
    ((_, completion),) = decoder.collect()
    assert completion.text is not None
    yield completion.text[len(told) :]
    yield completion


def _open_decoder(
    model: nn.Module, prompts: Sequence[Sequence[int]], names: Sequence[str], stop_ids: frozenset[int],
    decoding: Decoding, decode: Decode | None, *, is_streamed: bool = False,
) -> _Decoder:  # fmt: skip
    refuse_long_prompts(prompts, names, decoding)
    model.eval()
    return _Decoder(model, prompts, names, stop_ids, decoding, decode, is_streamed)


def _write_all(decoder: _Decoder, finished: dict[int, Completion], on_finished: Callable[[int, int], None]) -> None:
    """Write what is not in `finished` yet, into it."""
    prompts = decoder.prompts
    waiting = sorted((i for i in range(len(prompts)) if i not in finished), key=lambda i: (-len(prompts[i]), i))
    # reading a handful of prompts at once costs little more than reading one
    refill = max(1, decoder.num_slots // 4)
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


def refuse_long_prompts(prompts: Sequence[Sequence[int]], keys: Sequence[str], decoding: Decoding) -> None:
    """DataError names the first prompt that is empty or leaves no room for an answer."""
    for prompt, key in zip(prompts, keys, strict=True):
        if not prompt:
            raise DataError("the prompt has no tokens", where=f"row {key}", mend="write a prompt")
        if decoding.max_total_tokens is not None and len(prompt) >= decoding.max_total_tokens:
            raise DataError(
                f"the prompt has {len(prompt):,} tokens, the model reads {decoding.max_total_tokens:,} with the answer",
                where=f"row {key}",
                mend="shorten the prompt",
            )
