"""The fixture `outcome`, by which every test of the fault suite says what it found, and the table made of it.

What tests say travels with their reports, so that it reaches the process that writes the table from any worker. With
WHET_FAULT_TABLE=1 (`make faults`) the table becomes benchmarks/results/faults.json.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from fault_table import Finding, as_document, as_lines
from forked_runs import ForkedRuns
from workplace import Uninterrupted, environment_of, make_workplace, plant_bombs_fixture, tiny_model, workplace

__all__ = ["plant_bombs_fixture", "tiny_model", "workplace"]

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
CLAIM = "every fault that the suite causes ends as promised: nothing lost, nothing silently wrong, nothing let in"
findings: list[Finding] = []
failed: list[str] = []


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedRuns]:
    """Runs of whet at the price of a fork."""
    folder = tmp_path_factory.mktemp("forked")
    with ForkedRuns(environment_of(folder), folder) as runs:
        yield runs


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, forked: ForkedRuns) -> Uninterrupted:
    """The standard recipe from beginning to end, forked; what it imports is there for all later runs."""
    place = make_workplace(tmp_path_factory.mktemp("uninterrupted"), tiny_model)
    ended = forked.run(
        "train", str(place.recipe), folder=place.folder, environment=place.environment, learn=True
    )  # fmt: skip
    assert ended.code == 0, ended.said
    return Uninterrupted(run_folder=place.folder / "run", trajectory=place.trajectory(), hashes=place.hashes())


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Says what came of a fault: `outcome(fault=..., group=..., tries=..., held=..., lost="", note="", peer="")`.

    Called once, at the end of a test and before it asserts that all tries held. The fields are those of
    fault_table.Finding; tests of the same fault share a line of the table.
    """

    def tell(**fields: object) -> None:
        request.node.user_properties.append(("fault", asdict(Finding(**fields))))  # type: ignore[arg-type]

    return tell


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents and item.get_closest_marker("fault") is None:
            item.add_marker("quick_fault")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        failed.append(report.nodeid)
    if report.when == "call":
        findings.extend(Finding(**value) for name, value in report.user_properties if name == "fault")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not findings:
        return
    terminalreporter.section("faults")
    for line in as_lines(findings):
        terminalreporter.write_line(line)
    if os.environ.get("WHET_FAULT_TABLE") == "1":
        sys.path.insert(0, str(ROOT / "benchmarks"))
        from machine import write_result

        write_result("faults", claim=CLAIM, command="make faults", result=as_document(findings, failed))
