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
