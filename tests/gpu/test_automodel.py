"""A run over a base that NeMo AutoModel loaded is the run over the one that transformers loaded."""

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
    pytest.mark.filterwarnings("default"),  # of AutoModel's own dependencies
]


def test_losses_do_not_depend_on_the_loader(tmp_path):
    if importlib.util.find_spec("nemo_automodel") is None:
        pytest.skip("nemo-automodel is not installed")
    base = tiny_runs.write_base(tmp_path / "base")
    rows = [{"prompt": f"Say {word}.", "completion": word} for word in ("one", "two", "three", "four") * 4]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    losses = {}
    for loader in ("transformers", "nemo_automodel"):
        recipe = Recipe(
            name=loader,
            output=str(tmp_path / loader),
            model=Model(id=str(base), loader=loader, dtype="float32"),
            adapter=Adapter(rank=4, alpha=8.0),
            data=Data(train=(Source(source=str(tmp_path / "rows.jsonl")),), max_length=128),
            batch=Batch(global_size=8),
            optim=Optim(lr=1e-2, schedule="constant", warmup=0),
            train=Train(max_steps=10, device="cuda"),
            tracking=(),
        )
        run_recipe(recipe, Options(say=lambda _: None))
        lines = (Path(recipe.output) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses[loader] = [json.loads(line)["loss"] for line in lines if json.loads(line)["kind"] == "step"]
    assert len(losses["transformers"]) == 10
    assert losses["nemo_automodel"] == pytest.approx(losses["transformers"], rel=1e-5)
