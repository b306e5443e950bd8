"""NeMo AutoModel itself, where its environment is at hand (docs/nemo-automodel.md): it loads as transformers does."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import tiny_folders
import torch
from transformers import LlamaForCausalLM

from whet.models import automodel
from whet.models.load import load_pretrained
from whet.recipe.schema import Model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # warnings of its own dependencies
CPU = torch.device("cpu")


class _TorchWithoutCuda:
    """torch, as a module of AutoModel sees it, whose first CUDA device is the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, kind: Any, *more: Any) -> torch.device:
        return CPU if kind == "cuda" else torch.device(kind, *more)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_package_loads_what_transformers_loads(tmp_path, monkeypatch, dtype):
    if importlib.util.find_spec("nemo_automodel") is None:
        pytest.skip("nemo-automodel is not installed")
    folder = tiny_folders.write_folder(tmp_path / "base", tiny_folders.smollm())
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    if device == CPU:
        _let_it_load_on_the_cpu(monkeypatch)
    loaded = load_pretrained(Model(id=str(folder), dtype=dtype), device=device, loader="nemo_automodel")
    expected = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)
    assert {n: (p.shape, p.dtype, p.device) for n, p in loaded.model.named_parameters()} == {
        n: (p.shape, p.dtype, p.device) for n, p in expected.named_parameters()
    }
    ids = torch.arange(20, device=device)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, expected(ids).logits)


def _let_it_load_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_automodel._transformers import auto_model

    monkeypatch.setattr(automodel, "require_automodel", lambda device: automodel.refuse_other_transformers())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: CPU)
    monkeypatch.setattr(auto_model, "torch", _TorchWithoutCuda())
