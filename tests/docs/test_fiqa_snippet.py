"""The FiQA project's loading and inference snippet, line for line but for the base's name, on an adapter of whet's."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path

import tiny_runs
import torch
from fiqa_snippet import BASE, INFERENCE, LOADING

from whet.checkpoint.manifest import write_manifest
from whet.cli.fiqa_project import copy_final
from whet.recipe.schema import Adapter

PAGE = Path(__file__).parents[2] / "docs" / "nemo-automodel.md"


def test_the_snippet_answers_with_the_tuned_weights(tmp_path, monkeypatch):
    run = write_run(tmp_path)
    copy_final(run.folder, tmp_path / "checkpoints" / "final_model")
    found = run_as_written("import torch\n" + LOADING + INFERENCE, tmp_path, run.base, monkeypatch)
    assert found["response"].startswith(found["prompt"]) and len(found["response"]) > len(found["prompt"])
    assert_same_model(found["model"], run.live)


def test_the_page_s_own_form_of_it_loads_the_same(tmp_path, monkeypatch):
    run = write_run(tmp_path)
    copy_final(run.folder, tmp_path / "checkpoints" / "final_model")
    (block,) = re.findall(r"```text\n(import torch.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert_same_model(run_as_written(block, tmp_path, run.base, monkeypatch)["model"], run.live)


def write_run(folder: Path) -> tiny_runs.TinyRun:
    base = tiny_runs.write_base(folder / "base", dtype=torch.bfloat16)
    adapter = Adapter(rank=8, alpha=32.0, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    run = tiny_runs.write_adapter_run(folder / "checkpoints", base, adapter)
    write_manifest(run.folder, step=1)
    return run


def run_as_written(code: str, folder: Path, base: Path, monkeypatch) -> dict:
    assert BASE in code
    (folder / "snippet.py").write_text(code.replace(BASE, str(base)), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "nemo_automodel", importlib.import_module("standin_automodel"))
    monkeypatch.chdir(folder)
    return runpy.run_path(str(folder / "snippet.py"))


def assert_same_model(found: torch.nn.Module, live: torch.nn.Module) -> None:
    ids = torch.arange(20)[None]
    with torch.no_grad(), found.disable_adapter():
        base = found(ids).logits.float()
    with torch.no_grad():
        tuned, expected = found(ids).logits.float(), live(ids).logits.float()
    assert not torch.allclose(base, expected, atol=0.05)
    assert torch.allclose(tuned, expected, atol=0.05)  # products in bfloat16
