"""A quantized base is loaded as asked or refused by name, never silently left out."""

from __future__ import annotations

import pytest
import torch

from whet.errors import RecipeError
from whet.models.load import load_pretrained
from whet.recipe.schema import Model


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_loading_refuses_before_the_model_is_looked_for(method):
    with pytest.raises(RecipeError, match=f"model.quantize: .*{method}"):
        load_pretrained(Model(id="./no-such-folder", quantize=method), device=torch.device("cpu"))
