"""The callbacks that a recipe can name."""

from __future__ import annotations

from collections.abc import Callable

from whet.recipe import schema
from whet.train.callbacks import Callback
from whet.train.on_spectral import Spectral

CALLBACKS: dict[str, Callable[[schema.Callback], Callback]] = {"spectral": Spectral}


def chosen(recipe: schema.Recipe) -> list[Callback]:
    """The recipe's callbacks, in its order."""
    return [CALLBACKS[c.name](c) for c in recipe.callbacks]
