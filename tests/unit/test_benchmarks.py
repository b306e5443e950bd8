"""Every stored benchmark result says what it claims, and how, where and when it was made."""

from __future__ import annotations

import json
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REQUIRED = {"claim", "command", "date", "machine", "versions"}


def test_every_result_says_how_it_was_made():
    faults = []
    for path in sorted(BENCHMARKS.glob("results/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        missing = REQUIRED - {key for key, value in result.items() if value}
        faults += [f"{path.name}: {key} is missing or empty" for key in sorted(missing)]
    assert not faults, "see benchmarks/README.md:\n" + "\n".join(faults)


def test_the_readme_names_every_required_key():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in text for key in REQUIRED)


RUN_BY_OTHERS = {"gpu_rungs", "gpu_trl"}
"""one rung each, in a process that a ladder starts"""
MAKES_DATA = {"length_files"}
"""run once, when a dataset changes; its result is in the repository"""


def test_every_script_is_run_by_a_target():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    makefile = (BENCHMARKS.parent / "Makefile").read_text(encoding="utf-8")
    lines = makefile.replace("\\\n", " ").splitlines()
    lists = [line.partition("=")[2].split() for line in lines if line.startswith(("BENCHM", "STUDIES"))]
    assert sorted(name for names in lists for name in names) == sorted(scripts - RUN_BY_OTHERS - MAKES_DATA)
