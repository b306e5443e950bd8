"""In which form the model holds its weights where all of them train. Free of torch."""

from __future__ import annotations

from typing import Literal

from whet.recipe.schema import Optim

WeightsForm = Literal["wide", "mastered", "narrow"]
"""how all weights train: in float32 or wider; in the model's own format after float32 masters; in that format alone"""


def weights_form(optim: Optim) -> WeightsForm:
    """How `train_all_weights` is to hold the weights for this optimizer."""
    if optim.name == "adamw_8bit":
        return "narrow"
    return "mastered" if optim.master == "float32" else "wide"
