"""The benchmarks of ranks and of many rows run in their toy form and compare what they say they compare."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def run(script: str, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--toy", *arguments], env=os.environ | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def script_named(monkeypatch):
    """Imports a script as the scripts import each other, and forgets it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("many_rows", "ranks_vs_threads", "machine", "whet_side", "training_side"):
        sys.modules.pop(name, None)


def test_many_rows_are_ordered_in_every_case(script_named):
    many_rows = script_named("many_rows")
    found = {name: many_rows.measure(name, 5_000) for name in many_rows.CASES}
    assert found["samples"]["units"] == found["two sources, mixed evenly"]["units"] == 5_000
    assert found["packs of 8,192 tokens"]["units"] < found["packs of 2,048 tokens"]["units"] < 5_000
    assert all(case["next_epoch_seconds"] > 0 and case["median_step_seconds"] > 0 for case in found.values())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)  # three runs, one of them with threads that wait for each other on a busy machine
def test_ranks_and_threads_train_on_the_same_rows_to_the_same_losses(tmp_path):
    base = tiny_runs.write_base(tmp_path / "base")
    cache = {"WHET_CACHE": str(tmp_path / "cache"), "WHET_TEST_DATA": ""}
    said = run("ranks_vs_threads.py", "--model", str(base), "--dtype", "float32", **cache)
    sides = [line for line in said.splitlines() if "rows a pass" in line]
    assert [side.split("  ")[0] for side in sides] == [
        "one process, two passes at a time", "one rank a core", "one process, one pass at a time"
    ]  # fmt: skip
    lanes = [side.split(" x ")[0].split()[-1] for side in sides]
    assert lanes == ["2", "1", "1"]
    gaps = said.splitlines()[-1]
    assert gaps.startswith("largest gap of losses: ")
    found = [float(gap) for gap in re.findall(r"([0-9.]+(?:e[-+][0-9]+)?) \(", gaps)]
    assert len(found) == 2 and max(found) < 1e-4


@pytest.fixture
def script(script_named):
    return script_named("ranks_vs_threads")


def test_a_ratio_is_taken_round_by_round(script):
    rates = lambda *each: [{"tokens_per_second": rate} for rate in each]  # noqa: E731
    found = script.ratios(rates(10, 30, 10), rates(5, 10, 10))
    assert found == {"median": 2.0, "range": [1.0, 3.0], "runs": 3}


def test_one_pass_at_a_time_takes_the_rows_of_both(script):
    sides = script.sides_of(2, 4)
    assert sides[script.ONE_PASS] == {"ranks": 1, "threads": 2, "batch": {"micro_size": 4}}
    assert sides[script.RANKS] == {"ranks": 2, "threads": 1}
