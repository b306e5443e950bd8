"""What cannot be done while weights lie in parts on several ranks."""

from __future__ import annotations

from collections.abc import Iterator

from whet.recipe.problems import Finding, Path
from whet.recipe.schema import Recipe

_STRATEGY: Path = ("parallel", "strategy")


def why_not_sharded(recipe: Recipe) -> tuple[Path, str] | None:
    """(the setting in the way, why); None where the weights of this recipe can be sharded."""
    if recipe.model.quantize != "none":
        return (
            ("model", "quantize"),
            f"a base in {recipe.model.quantize} cannot be cut by rows: its scales belong to blocks of it",
        )
    if recipe.adapter.method == "none" and recipe.optim.name == "adamw_8bit":
        return (
            ("optim", "name"),
            "adamw_8bit gives blocks of 256 values a scale, and blocks of parts are others: use adamw with "
            "optim.master float32",
        )
    return None


def parallel_is_meant(recipe: Recipe) -> Iterator[Finding]:
    """Findings about the section `parallel`."""
    strategy, shards = recipe.parallel.strategy, recipe.parallel.shards
    if shards is not None and strategy not in ("fsdp", "hsdp"):
        yield Finding((("parallel", "shards"), _STRATEGY), f"does nothing with {strategy}: set strategy to hsdp")
    reason = why_not_sharded(recipe)
    if strategy in ("fsdp", "hsdp") and reason is not None:
        yield Finding((_STRATEGY, reason[0]), f"{strategy} and this do not go together: {reason[1]}")
