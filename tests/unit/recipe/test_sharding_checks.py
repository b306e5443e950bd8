from dataclasses import replace

import pytest

from whet.recipe.schema import Adapter, Data, Model, Optim, Parallel, Recipe, Source
from whet.recipe.sharding_checks import parallel_is_meant, why_not_sharded

RECIPE = Recipe(name="r", output="runs/r", data=Data(train=(Source(source="rows.jsonl"),)))
ALL_WEIGHTS = Adapter(method="none")


def found(**sections):
    return [(finding.paths[0], finding.what) for finding in parallel_is_meant(replace(RECIPE, **sections))]


@pytest.mark.parametrize("strategy", ["auto", "replicate", "fsdp", "hsdp"])
def test_a_strategy_goes_with_an_adapter_and_with_all_weights(strategy):
    parallel = Parallel(strategy=strategy)
    assert found(parallel=parallel) == []
    assert found(parallel=parallel, adapter=ALL_WEIGHTS, optim=Optim(master="float32")) == []


@pytest.mark.parametrize("strategy", ["fsdp", "hsdp"])
@pytest.mark.parametrize("quantize", ["nf4", "int8", "fp8"])
def test_a_quantized_base_is_not_sharded(strategy, quantize):
    model = Model(quantize=quantize)
    ((path, what),) = found(parallel=Parallel(strategy=strategy), model=model)
    assert path == ("parallel", "strategy") and quantize in what
    assert found(parallel=Parallel(strategy="auto"), model=model) == []
    assert why_not_sharded(replace(RECIPE, model=model)) is not None


def test_moments_of_8_bits_are_not_sharded_with_all_weights_but_go_with_an_adapter():
    eight_bit, parallel = Optim(name="adamw_8bit"), Parallel(strategy="fsdp")
    assert "256 values" in found(parallel=parallel, adapter=ALL_WEIGHTS, optim=eight_bit)[0][1]
    assert found(parallel=parallel, optim=eight_bit) == []


def test_shards_without_a_strategy_that_has_them_are_refused():
    assert "set strategy to hsdp" in found(parallel=Parallel(shards=4))[0][1]
    assert found(parallel=Parallel(strategy="hsdp", shards=4)) == []
