"""Which models ranks can share layer by layer, said before they begin."""

from __future__ import annotations

from math import gcd
from typing import Any

from whet.errors import RecipeError
from whet.parallel.shares import SPLIT_INPUTS, split_dim

_WHERE = "parallel.tensor"


def refuse_model(model: Any, num_ranks: int) -> None:
    """RecipeError when `num_ranks` cannot share the layers of this model alike."""
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    common = gcd(heads, kv_heads)
    if common % num_ranks:
        working = [n for n in range(1, common + 1) if common % n == 0]
        nearest = [n for n in working if n < num_ranks][-1:] + [n for n in working if n > num_ranks][:1]
        raise RecipeError(
            f"{num_ranks} ranks cannot share {heads} query heads and {kv_heads} key heads alike",
            where=_WHERE,
            mend=" or ".join(f"parallel.tensor={n}" for n in nearest),
        )
    for name, parameter in model.named_parameters():
        parts = set(name.split("."))
        is_known = parameter.ndim < 2 or split_dim(name) is not None or parts & {"lora_A", "lora_B"}
        if not is_known or (parts & SPLIT_INPUTS and name.endswith(".bias")):
            raise RecipeError(
                f"the model's {name} belongs to no layer of plain Llama models, so nobody knows how to share it",
                where=_WHERE,
                mend="parallel.tensor=1",
            )
