"""The rows of a run as they are: read and tokenized, in the run's own order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from whet.data.pipeline import prepare
from whet.data.sampler import Order, order_of
from whet.data.shared_prefix import pays
from whet.models.tokenizer import load_tokenizer
from whet.recipe.resolve import resolve
from whet.recipe.schema import Recipe
from whet.train.foreseen_rows import ForeseenRows, Largest
from whet.train.memory_plan import MOST_STEPS_LOOKED_AT, largest_pass
from whet.train.pass_size import PassSize
from whet.types import RunPlan


def read_rows(recipe: Recipe, *, num_data_ranks: int, say: Callable[[str], None]) -> ForeseenRows:
    """Tokens of the recipe's rows, from the cache or made now. HubError, DataError, ... where that cannot be done."""
    text_side = load_tokenizer(recipe.model)
    data = prepare(recipe, text_side.tokenizer, end_ids=text_side.stop_ids, base_folder=Path.cwd(), say=say)
    return rows_of(
        recipe, order_of(recipe, data.train), data.train.num_taught, num_data_ranks=num_data_ranks
    )  # fmt: skip


def rows_of(recipe: Recipe, order: Order, num_taught: np.ndarray, *, num_data_ranks: int) -> ForeseenRows:
    """What an order of samples says of them. `num_taught`: int [num_samples], tokens with loss."""
    shares = pays(recipe.batch.share_prefix, order.shared_prefix, order.lengths)
    num_tokens, num_samples = int(order.lengths.sum(dtype=np.int64)), len(order.lengths)

    def largest(per_pass: int) -> Largest:
        plan = resolve(recipe, world_size=num_data_ranks, num_samples=order.num_units, micro_batch=per_pass)
        plan = replace(plan, share_prefix=shares)
        return Largest(
            counted=largest_pass(order, plan, num_taught), size=_longest_documents(order, plan, num_taught)
        )  # fmt: skip

    shared = f"; {order.shared_prefix} tokens that all begin with are computed once a pass" if shares else ""
    return ForeseenRows(
        num_units=order.num_units,
        num_samples=num_samples,
        mean_length=num_tokens / num_samples,
        taught_share=int(num_taught.sum(dtype=np.int64)) / num_tokens,
        largest=largest,
        notes=(
            f"{num_samples:,} samples read and tokenized, {num_tokens / num_samples:.0f} tokens on average{shared}",
        ),
    )


def _longest_documents(order: Order, plan: RunPlan, num_taught: np.ndarray) -> PassSize:
    """The pass with the most tokens among the steps that `largest_pass` looks at."""
    stride = -(-plan.steps_per_epoch // MOST_STEPS_LOOKED_AT)
    passes = (each for step in range(0, plan.steps_per_epoch, stride) for each in order.step(plan, step).passes)
    fullest = max(passes, key=lambda one_pass: int(order.lengths[one_pass].sum()))
    return PassSize(
        lengths=tuple(order.lengths[fullest].tolist()), num_taught=int(num_taught[fullest].sum()), what=""
    )  # fmt: skip
