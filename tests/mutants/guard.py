"""Pytest plugin of the mutants harness: the tests must import whet from the mutated copy, and must run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NOT_THE_COPY = 90
DID_NOT_RUN = 91

num_skipped = 0


def pytest_configure() -> None:
    import whet

    imported = Path(whet.__file__).resolve().parent
    expected = Path(os.environ["WHET_MUTANT_PACKAGE"]).resolve()
    if imported != expected:
        pytest.exit(f"imported {imported}, not the copy {expected}", returncode=NOT_THE_COPY)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global num_skipped
    num_skipped += report.skipped


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if num_skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = DID_NOT_RUN
