"""With the Triton kernels on, here in their interpreter, a run that was killed ends as if never stopped."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
]

CASES = {
    "adapter with dropout": {"rank": 4, "alpha": 8, "dropout": 0.1},
    "all weights": {"method": "none"},
}


@pytest.mark.fault
@pytest.mark.parametrize("case", CASES)
def test_killed_while_triton_kernels_compute_the_run_ends_as_if_never_stopped(workplace, case):
    workplace.environment["TRITON_INTERPRET"] = "1"
    # the interpreter takes a millisecond per token and kernel
    sections = {
        "adapter": CASES[case],
        "batch": {"global_size": 1, "micro_size": 1},
        "train": {"max_steps": 2, "keep": 1},
    }
    workplace.write_recipe(output=str(workplace.folder / "whole"), **sections)
    workplace.train()
    workplace.write_recipe(**sections)
    workplace.kill_at(1)
    workplace.train()
    summary = json.loads((workplace.folder / "run" / "summary.json").read_text())
    assert summary["kernels"]["triton"] == "norm, rotary, swiglu"
    assert len(workplace.trajectory()) == 2
    assert workplace.trajectory() == workplace.trajectory("whole")
    assert workplace.hashes() == workplace.hashes("whole")
