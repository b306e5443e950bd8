"""QLoRA on a GPU: the recipe for a card of 24 GB loads its base in 4 bits there and trains over it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import tiny_runs
import torch

from whet.recipe.schema import Adapter, Batch, Data, Model, Optim, Recipe, Source, Train
from whet.train.run import Options, run_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_an_adapter_learns_over_a_quantized_base_on_the_gpu(tmp_path, method):
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    base = tiny_runs.write_base(tmp_path / "base")
    rows = [{"prompt": f"Say {word}.", "completion": word} for word in ("one", "two", "three", "four") * 4]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe(
        name="qlora",
        output=str(tmp_path / "run"),
        model=Model(id=str(base), quantize=method),
        adapter=Adapter(rank=4, alpha=8.0, dropout=0.05),
        data=Data(train=(Source(source=str(tmp_path / "rows.jsonl")),), max_length=128),
        batch=Batch(global_size=8),
        optim=Optim(lr=1e-2, schedule="constant", warmup=0),
        train=Train(max_steps=30, device="cuda", memory_gb=24),
        tracking=(),
    )
    run_recipe(recipe, Options(say=lambda _: None))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses[-1] < 0.8 * losses[0]
    plan = json.loads((Path(recipe.output) / "run_plan.json").read_text())
    assert plan["device"] == "cuda" and plan["predicted_memory_bytes"] < 24e9
