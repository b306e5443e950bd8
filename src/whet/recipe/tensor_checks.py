"""What layers shared by several ranks do not compute as one rank alone does."""

from __future__ import annotations

from collections.abc import Iterator

from whet.recipe.problems import Finding, Path
from whet.recipe.schema import Recipe

_TENSOR: Path = ("parallel", "tensor")


def layers_can_be_shared(recipe: Recipe) -> Iterator[Finding]:
    """Findings where `parallel.tensor` is above 1."""
    if recipe.parallel.tensor == 1:
        return
    if recipe.model.quantize != "none":
        yield _finding(("model", "quantize"), "the base is rounded in blocks and rows, which parts would cut through")
    if recipe.adapter.method == "dora":
        yield _finding(("adapter", "method"), "dora measures whole rows of the weights, of which each rank has a part")
    if recipe.optim.name == "adamw_8bit":
        yield _finding(("optim", "name"), "adamw_8bit gives blocks of 256 values a scale, and parts have other blocks")
    if recipe.train.loss_head not in ("auto", "chunked"):
        yield _finding(
            ("train", "loss_head"),
            f"{recipe.train.loss_head} needs the whole output head, of which each rank has a part: set auto",
        )
    for number, callback in enumerate(recipe.callbacks):
        if callback.name == "spectral":
            yield _finding(
                ("callbacks", number, "name"), "spectral decomposes whole factors, of which each rank has a part"
            )


def _finding(path: Path, why: str) -> Finding:
    return Finding((path, _TENSOR), f"does not go together with layers that ranks share (parallel.tensor): {why}")
