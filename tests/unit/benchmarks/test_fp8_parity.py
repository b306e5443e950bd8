"""The study of float8 against bfloat16 runs in its quick form, pairs what belongs together and can say no."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import tiny_runs

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("fp8_parity")
    for name in ("fp8_parity", "machine"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_quick_form_writes_both_curves_of_one_pair(study, tmp_path, monkeypatch):
    monkeypatch.delenv("WHET_TEST_DATA", raising=False)
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OUT", str(tmp_path))
    base = tiny_runs.write_base(tmp_path / "base")
    monkeypatch.setattr(
        sys, "argv", ["fp8_parity.py", "--quick", "--model", str(base), "--folder", str(tmp_path / "runs")]
    )
    with pytest.raises(SystemExit) as ended:
        study.main()
    found = json.loads((tmp_path / "fp8_parity.json").read_text())
    assert ended.value.code == (0 if found["holds"] else 8)
    exact, rounded = found["runs"]
    assert exact["frozen_base"] == "bfloat16" and rounded["frozen_base"].startswith("float8 emulated in 14")
    assert exact["batch_hashes"] == rounded["batch_hashes"] and len(exact["training_loss"]) == 4
    assert exact["training_loss"] != rounded["training_loss"]
    assert set(exact["validation_loss"]) == {"2", "4"}
    # nothing is learnt in 4 steps: over the base as it is, both adapters end where it stands, up to the dtype
    for run in found["runs"]:
        assert run["exported_validation_loss"] == pytest.approx(exact["final_validation_loss"], rel=0.02)


def run(base: str, loss: float, exported: float, seed: int = 1, rows: str = "a") -> dict:
    return {
        "base": base, "seed": seed, "batch_hashes": [rows], "training_loss": [loss], "final_validation_loss": loss,
        "exported_validation_loss": exported,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rounded", "holds"),
    [
        (run("float8", 1.004, 0.996), True),
        (run("float8", 1.006, 1.0), False),
        (run("float8", 1.0, 0.994), False),
        (run("float8", 1.0, 1.0, rows="b"), False),
    ],
)
def test_the_gate_asks_every_pair_both_ways(study, rounded, holds):
    other = [run("bfloat16", 2.0, 2.0, seed=2), run("float8", 2.0, 2.0, seed=2)]
    assert study.compare([*other, run("bfloat16", 1.0, 1.0), rounded])["holds"] is holds
