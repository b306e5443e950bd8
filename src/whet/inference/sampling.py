"""Logits -> sampled tokens, each row from a random stream of its own.

Shape letters: B rows, V tokens of the vocabulary, C candidates left of them.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def row_stream(seed: int, key: str) -> np.random.Generator:
    """The random numbers of one row: a function of (seed, key) alone, whatever else is in the batch."""
    digest = hashlib.sha256(f"{seed} {key}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def sample(logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """One token per row (int64 [B]), by inverting the distribution function at `uniforms_B` in [0, 1).

    In the order of Hugging Face and vLLM: logits / temperature, then the `top_k` most probable (0: all), then of these
    the fewest whose probability reaches `top_p`, then drawn in proportion. In float64: summed in float32, the rare
    tokens of a large vocabulary would be lost.
    """
    scaled_BV = logits_BV.double() / temperature
    is_narrowed = 0 < top_k < scaled_BV.shape[1]
    if is_narrowed:
        candidates_BC, tokens_BC = scaled_BV.topk(top_k)
    elif top_p < 1:
        candidates_BC, tokens_BC = scaled_BV.sort(descending=True, stable=True)
    else:
        candidates_BC, tokens_BC = scaled_BV, None
    probabilities_BC = candidates_BC.softmax(-1)
    if top_p < 1:
        before_BC = probabilities_BC.cumsum(-1) - probabilities_BC
        # the most probable token is always kept: nothing stands before it
        probabilities_BC = probabilities_BC.masked_fill(before_BC >= top_p, 0.0)
    totals_BC = probabilities_BC.cumsum(-1)
    total_B1 = totals_BC[:, -1:].contiguous()
    places_B1 = torch.searchsorted(totals_BC, uniforms_B.to(totals_BC)[:, None] * total_B1, right=True)
    # rounding may put the largest uniform number on the total itself: the last token that can be drawn is meant
    last_B1 = torch.searchsorted(totals_BC, total_B1)
    places_B1 = torch.minimum(places_B1, last_B1)
    chosen_B1 = places_B1 if tokens_BC is None else tokens_BC.gather(1, places_B1)
    return chosen_B1[:, 0]
