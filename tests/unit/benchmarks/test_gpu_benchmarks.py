"""The GPU benchmarks in their toy form on the CPU: they cannot be debugged where minutes are lent."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
MODULES = (
    "adam8bit_parity", "gpu_ladder", "gpu_lora_8b", "gpu_rungs", "gpu_sft_8b", "gpu_side", "gpu_smollm2", "gpu_trl",
    "length_files", "machine", "trl_side",
)  # fmt: skip


@pytest.fixture
def benchmark_named(monkeypatch):
    """Imports a script as the scripts import each other, and forgets it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def _job(**changes):
    return {
        "shape": "toy", "lengths": "gsm8k", "adapter": {"rank": 4, "alpha": 8.0, "dropout": 0.05}, "device": "cpu",
        "dtype": "bfloat16", "rows_per_step": 4, "rows_per_pass": 4, "num_steps": 2, **changes,
    }  # fmt: skip


def test_flops_of_a_token_are_those_of_the_roofline(benchmark_named):
    side = benchmark_named("gpu_side")
    shape = side.SHAPES["llama-3.1-8b"]
    # 6.979 and 0.525 billion weights in the blocks and in the head; 83.9 million in an adapter of rank 32
    assert (shape.num_linear, shape.num_head) == (6_979_321_856, 525_336_576)
    assert shape.num_adapter(32) == 83_886_080
    pairs = [[240, 120]]
    attention = 6 * 32 * 4096 * 240
    expected = 4 * 6_979_321_856 + 4 * 0.5 * 525_336_576 + 6 * 83_886_080 + attention
    assert side.flops_per_token(shape, pairs, 32) == pytest.approx(expected)
    assert side.flops_per_token(shape, pairs, None) == pytest.approx(
        6 * 6_979_321_856 + 6 * 0.5 * 525_336_576 + attention
    )


@pytest.mark.parametrize("name", ["gsm8k", "fiqa", "metamath"])
def test_rows_have_the_lengths_of_the_file_and_its_common_beginning(benchmark_named, name):
    side = benchmark_named("gpu_side")
    lengths = side.lengths_of(name)
    rows = side.made_up_rows(lengths, 400, vocabulary=500)
    assert rows.lengths.mean() == pytest.approx(lengths["mean_tokens"], rel=0.1)
    assert rows.num_taught.mean() == pytest.approx(lengths["mean_taught_tokens"], rel=0.1)
    shared = benchmark_named("length_files").shared_first_tokens([sample.ids for sample in rows.samples])
    assert shared == lengths["shared_first_tokens"] == 24
    assert all(set(pair) != {0} and pair[0] > pair[1] > 0 for pair in lengths["tokens_and_taught"])
    assert '"text"' not in json.dumps(lengths), "numbers alone"


def test_a_random_llama_has_the_weights_it_says_and_none_is_zero(benchmark_named):
    import torch

    side = benchmark_named("gpu_side")
    shape = side.SHAPES["toy"]
    model = side.random_llama(shape, "cpu", torch.bfloat16)
    weights = dict(model.named_parameters())
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    norms = sum(w.numel() for n, w in weights.items() if "norm" in n)
    assert sum(w.numel() for w in weights.values()) == shape.num_linear + shape.num_head + norms
    assert all(float((w == 0).float().mean()) < 0.01 for w in weights.values())


def test_a_layer_is_compared_with_float32(benchmark_named):
    rungs, ladder = benchmark_named("gpu_rungs"), benchmark_named("gpu_ladder")
    found = rungs.check(_job(num_layers=1))
    assert ladder.is_right(found)
    for name in ("transformers and PEFT", "whet", "whet, float8 base"):
        assert 0 < found[name]["gradient_error"] < 0.2, name
    assert found["whet"]["gradient_error"] < 0.03
    broken = {**found, "whet": {"gradient_error": float("nan")}}
    assert not ladder.is_right(broken) and not ladder.is_right({"error": "out of memory"})


@pytest.mark.parametrize(
    "changes",
    [
        {"off": ("adapter", "qkv", "mlp", "norm", "rotary", "swiglu"), "has_full_logits": True},
        {"shares_prefix": True},
        {"recompute": "full", "quantize": "fp8"},
        {"adapter": {"method": "none"}, "optim": {"master": "float32"}},
        {"adapter": {"method": "none"}, "optim": {"name": "adamw_8bit"}, "recompute": "mlp"},
        {"rows_per_pass": "auto", "recompute": "auto", "memory_gb": 30},
    ],
)
def test_every_kind_of_rung_trains(benchmark_named, changes):
    rungs, side = benchmark_named("gpu_rungs"), benchmark_named("gpu_side")
    job = _job(**changes)
    result = side.with_rates(rungs.rung(job), job)
    assert np.isfinite(result["losses"]).all() and result["tokens_per_second"] > 0
    assert result["samples_per_second"] == pytest.approx(result["tokens_per_second"] / (result["tokens_per_step"] / 4))


def test_padded_rows_have_the_loss_of_packed_ones(benchmark_named):
    rungs = benchmark_named("gpu_rungs")
    plain = {"dtype": "float32", "adapter": {"rank": 4, "alpha": 8.0, "dropout": 0.0}, "rows_per_pass": 2}
    packed = rungs.rung(_job(**plain))
    padded = rungs.rung(_job(**plain, off=rungs.MODULES, is_padded=True, has_full_logits=True))
    assert padded["losses"] == pytest.approx(packed["losses"], rel=1e-4)
    assert padded["kernels"] == {"all": "transformers and PEFT, SDPA"}


def test_a_rung_that_runs_out_of_memory_is_tried_with_half_the_rows(benchmark_named, monkeypatch):
    side = benchmark_named("gpu_side")
    tried = []

    def run(command, **_settings):
        job = json.loads(command[-1])
        tried.append(job["rows_per_pass"])
        result = {"error": side.OUT_OF_MEMORY} if job["rows_per_pass"] > 2 else {"losses": []}
        return subprocess.CompletedProcess(command, 0, "text\n" + json.dumps(result) + "\n", "")

    monkeypatch.setattr(side.subprocess, "run", run)
    assert side.measure("gpu_rungs.py", _job(rows_per_pass=8)) == {"losses": []}
    assert tried == [8, 4, 2]


def test_products_alone_have_a_rate_for_each_shape(benchmark_named):
    found = benchmark_named("gpu_rungs").ceiling(_job(tokens=8))
    assert set(found["products"]) == {"q, k, v", "o", "gate, up", "down"}
    assert found["tokens_per_second_of_products_alone"] > 0


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", ["gpu_lora_8b", "gpu_sft_8b", "gpu_smollm2"])
def test_the_whole_script_runs_as_a_toy(script, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "OUT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), "--toy"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, products, *rungs = done.stdout.splitlines()
    assert first.startswith("one layer") and products.startswith("products alone")
    assert len(rungs) >= 5 and all("tokens/s" in line for line in rungs), done.stdout
    assert list(tmp_path.iterdir()) == [], "a toy's figures are not written"


@pytest.mark.slow
def test_the_gate_of_masters_and_8_bits_runs(benchmark_named, capsys):
    gate = benchmark_named("adam8bit_parity")
    result = gate.compare(range(1), gate.NUM_LAST)
    assert set(result["ways"]) == set(gate.WAYS)
    assert result["ways"][gate.REFERENCE]["mean_gap"] == 0.0
