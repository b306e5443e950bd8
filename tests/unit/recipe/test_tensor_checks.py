"""What is refused where ranks share each layer, with its reason."""

from dataclasses import replace

import pytest

from whet.recipe.schema import Adapter, Callback, Data, Model, Optim, Parallel, Recipe, Source, Train
from whet.recipe.tensor_checks import layers_can_be_shared

RECIPE = Recipe(name="x", output="runs/x", data=Data(train=(Source(source="rows.jsonl"),)))
CASES = [
    ({"model": Model(quantize="fp8")}, "model.quantize"),
    ({"adapter": Adapter(method="dora")}, "adapter.method"),
    ({"adapter": Adapter(method="none"), "optim": Optim(name="adamw_8bit")}, "optim.name"),
    ({"train": Train(loss_head="liger")}, "train.loss_head"),
    ({"callbacks": (Callback(name="spectral"),)}, "callbacks.0.name"),
]


@pytest.mark.parametrize(("changes", "key"), CASES)
def test_what_shared_layers_would_compute_otherwise_is_refused_at_its_key_and_only_there(changes, key):
    recipe = replace(RECIPE, **changes)
    assert list(layers_can_be_shared(recipe)) == []
    (finding,) = layers_can_be_shared(replace(recipe, parallel=Parallel(tensor=2)))
    assert ".".join(str(part) for part in finding.paths[0]) == key
    assert finding.paths[1] == ("parallel", "tensor")


def test_lora_and_all_weights_are_welcome():
    for method in ("lora", "none"):
        recipe = replace(RECIPE, adapter=Adapter(method=method), parallel=Parallel(tensor=8))
        assert list(layers_can_be_shared(recipe)) == []
