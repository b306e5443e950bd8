"""The GPU smoke script with a toy model on the CPU, as it runs on a machine that has little installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu_smoke.py"

# What a bare GPU machine does not have.
ABSENT = (
    "typer", "rich", "reasoning_gym", "gguf", "datasets", "pyarrow", "pandas", "tensorboard", "trl", "scipy", "IPython"
)  # fmt: skip
RUN_WITHOUT = f'''
import runpy, sys

class Without:
    """A finder that does not find the packages of ABSENT; everything else is the finder's own."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT!r} else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
script, *arguments = sys.argv[1:]
sys.argv = [script, *arguments]
sys.path.insert(0, script.rpartition("/")[0])
runpy.run_path(script, run_name="__main__")
'''


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[subprocess.CompletedProcess, dict]:
    out = tmp_path_factory.mktemp("out")
    environment = os.environ | {"OUT": str(out), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT, str(SCRIPT), "--tiny"],
        capture_output=True, text=True, env=environment, cwd=out, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads((out / "gpu_smoke.json").read_text())


def test_a_recipe_trains_saves_and_resumes_with_only_the_core_packages(finished):
    done, result = finished
    assert result["checks"]["the continued adapter has the same bytes"]["equal"]
    assert len(result["runs"]["cpu bfloat16"]["losses"]) == 20
    assert "written:" in done.stdout


def test_every_check_of_the_smoke_run_passes_and_says_its_tolerance(finished):
    _, result = finished
    assert all(check["passed"] for check in result["checks"].values())
    gaps = {name: check for name, check in result["checks"].items() if "tolerance" in check}
    assert len(gaps) == 4
    against_cpu = gaps["bfloat16 on cpu against float32 on cpu"]
    assert 0 < against_cpu["largest_loss_gap"] <= against_cpu["tolerance"], "two number formats cannot agree exactly"


def test_the_result_names_claim_command_machine_and_speed(finished):
    _, result = finished
    assert {"claim", "command", "date", "machine", "versions"} <= result.keys()
    assert all(run["median_tokens_per_second"] > 0 for run in result["runs"].values())
    assert all(run["peak_memory_bytes"] > 0 for run in result["runs"].values())
