"""Into how many parts the weights of a run are cut, from the recipe and the number of ranks. Free of torch."""

from __future__ import annotations

from typing import Literal

from whet.errors import RecipeError
from whet.recipe.schema import Parallel

Strategy = Literal["replicate", "fsdp", "hsdp"]


def count_shards(parallel: Parallel, strategy: Strategy, *, num_data_ranks: int, ranks_per_node: int) -> int:
    """Ranks (or tensor groups) that hold one copy of the weights together; RecipeError where they cannot be cut so."""
    if strategy == "replicate":
        return 1
    if strategy == "fsdp":
        if parallel.shards not in (None, num_data_ranks):
            raise RecipeError(
                f"fsdp cuts the weights into as many parts as there are data ranks ({num_data_ranks})",
                where="parallel.shards",
                mend="leave it out, or parallel.strategy=hsdp",
            )
        return num_data_ranks
    shards = parallel.shards or max(1, min(ranks_per_node // parallel.tensor, num_data_ranks))
    if num_data_ranks % shards:
        raise RecipeError(
            f"{num_data_ranks} data ranks cannot be cut into copies of {shards} shards",
            where="parallel.shards",
            mend=f"one of {divisors(num_data_ranks)}",
        )
    return shards


def divisors(number: int) -> str:
    """`1, 2, 4` of 4."""
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
