"""What ranks that share each layer cannot do, said before they begin."""

from __future__ import annotations

from math import gcd
from typing import Any

from whet.errors import RecipeError
from whet.parallel.shares import SPLIT_INPUTS, split_dim
from whet.recipe.schema import Recipe

_WHERE = "parallel.tensor"


def refuse_recipe(recipe: Recipe) -> None:
    """RecipeError when `recipe` asks for what layers shared by ranks do not compute like one rank alone."""
    reason = _why_not(recipe)
    if reason is not None:
        raise RecipeError(f"layers shared by ranks: {reason}", where=_WHERE, mend="parallel.tensor=1, or leave that out")


def _why_not(recipe: Recipe) -> str | None:
    if recipe.model.quantize != "none":
        return f"model.quantize {recipe.model.quantize} rounds blocks and rows of the base that would be cut through"
    if recipe.adapter.method == "dora":
        return "adapter.method dora measures whole rows of the weights, of which each rank has a part"
    if recipe.optim.name == "adamw_8bit":
        return "optim.name adamw_8bit gives blocks of 256 values a scale, and parts have other blocks"
    if recipe.train.loss_head not in ("auto", "chunked"):
        return f"train.loss_head {recipe.train.loss_head} needs the whole output head, of which each rank has a part"
    if any(callback.name == "spectral" for callback in recipe.callbacks):
        return "the callback spectral decomposes whole factors, of which each rank has a part"
    return None


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
