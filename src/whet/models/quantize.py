"""Frozen linear layers in 4 or 8 bits: not possible in this version, and said before anything is fetched."""

from __future__ import annotations

from typing import Literal

from whet.errors import RecipeError


def require_quantize(method: Literal["none", "nf4", "int8"]) -> None:
    """RecipeError when `method` cannot be carried out here."""
    if method != "none":
        raise RecipeError(
            f"this version of whet cannot keep the base in {method}",
            where="model.quantize",
            mend="set model.quantize to none",
        )
