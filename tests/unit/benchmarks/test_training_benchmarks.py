"""The benchmarks of training still run on today's code: each in its tiny form, with a toy model."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import tiny_runs

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
MODULES = ("cpu_ladder", "cpu_scaling", "cpu_vs_trl", "loss_head", "machine", "training_side", "trl_side", "whet_side")


@pytest.fixture
def benchmark_named(monkeypatch):
    """Imports a script as the scripts import each other, and forgets it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def base(tmp_path, monkeypatch) -> str:
    """A toy Llama's folder; rows are generated ones."""
    monkeypatch.delenv("WHET_TEST_DATA", raising=False)
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    return str(tiny_runs.write_base(tmp_path / "base"))


@pytest.mark.slow
def test_whets_side_is_a_run_of_whet_train(benchmark_named, base):
    job = {
        "seed": 1, "model": base, "dtype": "float32", "adapter": {"rank": 4}, "batch_rows": 4, "threads": 1,
        "data": {"train": [{"source": "reasoning-gym:leg_counting", "rows": 12}], "max_length": 1024},
        "optim": {"lr": 1e-3, "schedule": "constant", "warmup": 0},
    }  # fmt: skip
    result = benchmark_named("whet_side").run(job)
    assert len(result["losses"]) == 3 and len(result["seconds_per_step"]) == 2
    assert result["tokens_per_second"] > 0 and result["peak_memory_bytes"] > 1e8
    assert "fused" in result["configuration"]["kernels"]["adapter"]


@pytest.mark.slow
def test_rows_for_the_other_trainer_come_in_the_order_of_whets_steps(benchmark_named, base, tmp_path):
    shared = benchmark_named("cpu_vs_trl").prepare_rows(16, tmp_path, base)
    side = benchmark_named("training_side")
    run, _ = side.build(side.recipe_of(base, source=shared["data"]["train"][0]))
    batch = run.rows(1).batches[0]
    ids = [token for row in shared["rows"][8:] for token in row["input_ids"]]
    assert sorted(batch.ids_T.tolist()) == sorted(ids)


@pytest.mark.slow
def test_every_rung_computes_the_same_first_loss(benchmark_named, base):
    """In float32, so that rungs differ by rounding alone: a rung that computes something else would prove nothing."""
    ladder = benchmark_named("cpu_ladder")
    jobs = [vars(rung) | {"model": base, "num_steps": 2, "dtype": "float32", "keeps_memory": False}
            for rung in ladder.rungs() if rung.ranks == rung.threads == 1]  # fmt: skip
    results = [ladder.work(job) for job in jobs]
    losses = [result["losses"] for result in results]
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=2e-5)
    assert all(result["tokens_per_second"] > 0 for result in results)


@pytest.mark.slow
def test_the_ceiling_and_a_point_of_the_scaling_table_are_measured(benchmark_named, base):
    top = benchmark_named("cpu_ladder").ceiling({"model": base, "threads": 1, "num_steps": 1})
    assert top["tokens_per_second"] > 0 and top["flops_per_second"] > 0
    point = benchmark_named("cpu_scaling").measure(base, {"length": 32, "rows": 2, "rank": 4}, 1)
    assert point["tokens_per_second"] > 0 and 0 < point["share_of_products"] < 1
    assert point["microseconds_per_token"]["attention"] > 0


def series(*rates: float) -> list[dict]:
    return [
        {"tokens_per_second": rate, "microseconds_per_token": {"attention": 1e6 / rate - 100, "norms": 100}}
        for rate in rates
    ]


@pytest.mark.parametrize(
    ("rates", "cliffs"),
    [
        ((1000, 900, 810, 729), []),
        ((1000, 900, 500, 729), [2]),
        ((1000, 900, 810, 500), [3]),
        ((500, 900, 1000, 1000), [0]),
        ((1000, 760), []),
    ],
)
def test_a_cliff_is_a_quarter_below_the_trend_and_has_its_reason(benchmark_named, rates, cliffs):
    marked = benchmark_named("cpu_scaling").mark_cliffs(series(*rates))
    assert [i for i, point in enumerate(marked) if point["is_cliff"]] == cliffs
    for i, point in enumerate(marked):
        assert (point["explanation"] is not None) == (i in cliffs)
        if i in cliffs:
            assert "attention takes" in point["explanation"] and "norms takes" not in point["explanation"]
