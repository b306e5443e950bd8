"""The mutants harness on a toy repository, and whether every real mutant still fits the code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HARNESS = ROOT / "tests" / "mutants" / "run.py"

TOY = "FACTOR = 2\n\n\ndef double(x):\n    return FACTOR * x\n\n\ndef half(x):\n    return x / 2\n"
TOY_TESTS = """
import pytest
from whet import toy

def test_double():
    assert toy.double(3) == 6

def test_half_of_zero():
    assert toy.half(0) == 0

def test_skips():
    pytest.skip("no machine")
"""
KILLED = ("FACTOR * x", "3 * x", "test_double")
SURVIVOR = ("x / 2", "x / 3", "test_half_of_zero")


@pytest.fixture
def run_toy(tmp_path: Path):
    """Runs the harness on a toy repository with these mutants, name -> (old, new, test)."""

    def run(*options: str, **mutants: tuple[str, str, str]) -> subprocess.CompletedProcess[str]:
        for folder in ("src/whet", "tests/mutants"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "src/whet/__init__.py").write_text("")
        (tmp_path / "src/whet/toy.py").write_text(TOY)
        (tmp_path / "tests/test_toy.py").write_text(TOY_TESTS)
        for name, (old, new, test) in mutants.items():
            (tmp_path / f"tests/mutants/{name}.toml").write_text(
                f"what = 'a bug'\nfile = 'src/whet/toy.py'\nold = '{old}'\nnew = '{new}'\n"
                f"test = 'tests/test_toy.py::{test}'\n"
            )
        command = [sys.executable, str(HARNESS), "--root", str(tmp_path), *options]
        # the toy needs no pytest plugin, and loading them takes most of the time
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_a_killed_mutant_passes_and_a_survivor_fails_the_run(run_toy):
    process = run_toy(bad_factor=KILLED, bad_divisor=SURVIVOR)
    assert process.returncode == 1, process.stdout + process.stderr
    assert "1 of 2 mutants killed" in process.stdout
    assert "--- bad_divisor: SURVIVED" in process.stdout

    alone = run_toy("--only", "bad_factor")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert "1 of 1 mutants killed" in alone.stdout


def test_a_mutant_that_breaks_the_import_is_not_called_killed(run_toy):
    process = run_toy(no_import=("FACTOR = 2", "import no_such_module", "test_double"))
    assert process.returncode == 1
    assert "test did not run" in process.stdout and "0 of 1 mutants killed" in process.stdout


def test_a_test_that_imports_another_copy_of_the_package_proves_nothing(run_toy, tmp_path):
    (tmp_path / "conftest.py").write_text(
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path('src').resolve()))\n"
    )
    process = run_toy(bad_factor=KILLED)
    assert process.returncode == 1
    assert "--- bad_factor: wrong package imported" in process.stdout


@pytest.mark.parametrize(
    ("mutant", "reason"),
    [
        (("4 * x", "5 * x", "test_double"), "`old` occurs 0 times"),
        (("(x)", "(y)", "test_double"), "`old` occurs 2 times"),
        (("FACTOR * x", "FACTOR * x", "test_double"), "`new` equals `old`"),
        (("FACTOR * x", "FACTOR * (", "test_double"), "does not parse"),
        (("FACTOR * x", "3 * x", "test_renamed"), "no test tests/test_toy.py::test_renamed"),
    ],
)
def test_a_mutant_that_does_not_fit_the_code_is_an_error_that_says_why(run_toy, mutant, reason):
    process = run_toy(stale=mutant)
    assert process.returncode == 2
    assert reason in process.stdout


def test_a_test_that_is_skipped_proves_nothing(run_toy):
    process = run_toy(unproved=("FACTOR * x", "3 * x", "test_skips"))
    assert process.returncode == 2
    assert "must pass (and run) without a mutant" in process.stdout


def test_every_mutant_of_the_project_still_fits_the_code():
    process = subprocess.run([sys.executable, str(HARNESS), "--check"], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
    assert process.stdout == f"{len(list(HARNESS.parent.glob('*.toml')))} mutants fit the code\n"
