"""What the page on reliability makes of the fault suite's result file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fault_table import Finding, as_document

ROOT = Path(__file__).parents[2]
WHERE = {
    "machine": {"processor": "a processor", "cores": 2},
    "versions": {"torch": "2.13", "transformers": "5.23", "peft": "0.21"},
    "date": "2026-11-22T06:00:00",
    "command": "make faults",
}


@pytest.fixture
def fault_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from reliability_table import fault_tables

    yield fault_tables
    sys.modules.pop("reliability_table", None)


def test_every_fault_has_its_line_and_what_failed_is_named(fault_tables):
    found = [
        Finding(fault="SIGKILL", group="kill", tries=1200, held=1199, lost="one step", peer="a | b <tag>"),
        Finding(fault="full disk", group="storage", tries=3, held=3, note="exit code 5\nand room"),
        Finding(fault="NaN", group="numbers", tries=0, held=0, peer="goes on"),
    ]
    page = fault_tables(as_document(found, ["tests/faults/test_kills.py::test_x"]) | WHERE)
    lines = page.splitlines()
    assert lines[0].startswith("**1,202 of 1,203 tries ended as promised.**")
    assert "| SIGKILL | 1,200 | 1,199 | - | one step | a \\| b &lt;tag> |" in lines
    assert "| full disk | 3 | 3 | exit code 5 and room | - | not run |" in lines
    assert "| NaN | - | - | - | - | goes on |" in lines
    assert lines[-1] == "Tests that failed: `tests/faults/test_kills.py::test_x`."
