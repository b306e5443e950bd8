"""Runs tests of tests/interpreted in a process where Triton's kernels are interpreted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, num_expected: int, timeout_seconds: int = 280) -> None:
    """pytest with these arguments; fails with its output unless at least `num_expected` tests ran and all passed."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTEST_ADDOPTS", "WHET_TRITON"}}
    environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    process = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )
    assert process.returncode == 0, process.stdout[-8000:] + process.stderr[-2000:]
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed and int(passed[1]) >= num_expected, process.stdout[-2000:]
