"""Puts each known bug back, one at a time, in a copy of src, and asserts that the named test then fails.

A mutant is one file `tests/mutants/NAME.toml`:

    what = "the bug, in one sentence"
    file = "src/whet/errors.py"            # the file it lives in
    old  = '''exact text as it is now'''   # must occur exactly once
    new  = '''text with the bug'''
    test = "tests/unit/test_errors.py::test_name"

Run with `make mutants`, or `python tests/mutants/run.py --only NAME`. Exit code 1 if a mutant survives.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUARD_FOLDER = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 600
SECONDS_OF_A_TEST = 20
KEYS = {"what", "file", "old", "new", "test"}


class MutantError(ValueError):
    """A mutant file cannot be used as it is; says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One bug to put back. Invariant: `old` occurs exactly once in `file`."""

    name: str
    what: str
    file: str
    old: str
    new: str
    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the named test said about one mutant."""

    name: str
    outcome: str
    """`killed`, `SURVIVED`, or why nothing was learnt"""
    seconds: float
    output: str

    @property
    def is_killed(self) -> bool:
        return self.outcome == "killed"


def load_mutants(root: Path) -> list[Mutant]:
    """Every mutant under `root`, sorted by name; a MutantError names the first that cannot be used."""
    mutants = []
    for path in sorted((root / "tests" / "mutants").glob("*.toml")):
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        if set(fields) != KEYS:
            raise MutantError(f"{path.name}: keys must be {sorted(KEYS)}, found {sorted(fields)}")
        mutant = Mutant(name=path.stem, **fields)
        check_mutant(mutant, root)
        mutants.append(mutant)
    return mutants


def check_mutant(mutant: Mutant, root: Path) -> None:
    """Raises a MutantError if the mutant no longer fits the code: text moved, test renamed, nothing changed."""
    source_path = root / mutant.file
    if not mutant.file.startswith("src/") or not source_path.is_file():
        raise MutantError(f"{mutant.name}: mutant is stale: no file {mutant.file} under src/")
    num_found = source_path.read_text(encoding="utf-8").count(mutant.old)
    if num_found != 1:
        raise MutantError(f"{mutant.name}: mutant is stale: `old` occurs {num_found} times in {mutant.file}, not once")
    if mutant.old == mutant.new:
        raise MutantError(f"{mutant.name}: `new` equals `old`")
    try:
        ast.parse(mutated_source(mutant, root))
    except SyntaxError as error:
        raise MutantError(f"{mutant.name}: the mutated file does not parse: {error}") from error
    test_file, _, test_name = mutant.test.partition("::")
    test_path = root / test_file
    function = test_name.split("[")[0].split("::")[-1]
    if not function or not test_path.is_file() or f"def {function}(" not in test_path.read_text(encoding="utf-8"):
        raise MutantError(f"{mutant.name}: mutant is stale: no test {mutant.test}")


def mutated_source(mutant: Mutant, root: Path) -> str:
    """The text of the file with the bug put back."""
    return (root / mutant.file).read_text(encoding="utf-8").replace(mutant.old, mutant.new)


def run_pytest(tests: list[str], source_folder: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Runs `tests` with `whet` imported from `source_folder`, which the guard plugin verifies."""
    environment = {key: value for key, value in os.environ.items() if key not in {"CI", "PYTEST_ADDOPTS"}}
    environment |= {
        # before site-packages, so that it wins over an editable install
        "PYTHONPATH": os.pathsep.join([str(source_folder), str(GUARD_FOLDER)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "WHET_MUTANT_PACKAGE": str(source_folder / "whet"),
    }
    command = [sys.executable, "-m", "pytest", "-p", "guard", "-p", "no:cacheprovider", "-q", "--no-header", *tests]
    return subprocess.run(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS + SECONDS_OF_A_TEST * len(tests),
    )


def try_mutant(mutant: Mutant, root: Path) -> Verdict:
    """Copies src, puts the bug in, runs the test: killed only by a failing test (pytest's exit code 1)."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="whet-mutant-") as folder:
        source_folder = Path(folder) / "src"
        shutil.copytree(root / "src", source_folder, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / mutant.file).write_text(mutated_source(mutant, root), encoding="utf-8")
        process = run_pytest([mutant.test], source_folder, root)
    outcomes = {0: "SURVIVED", 1: "killed", 90: "wrong package imported", 91: "test was skipped"}
    outcome = outcomes.get(process.returncode, f"test did not run (pytest exit code {process.returncode})")
    return Verdict(name=mutant.name, outcome=outcome, seconds=time.perf_counter() - start, output=process.stdout)


def shares_of(tests: list[str], num_workers: int) -> list[list[str]]:
    """`tests` for several processes, those of a file together; none is empty."""
    files = sorted({test.partition("::")[0] for test in tests})
    shares = ([test for test in tests if test.partition("::")[0] in files[i::num_workers]] for i in range(num_workers))
    return [share for share in shares if share]


def tail(text: str, num_lines: int = 25) -> str:
    return "\n".join(text.splitlines()[-num_lines:])


def main(arguments: list[str]) -> int:
    """0 if every mutant was killed, 1 if one was not, 2 if the mutants or the tests cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", action="append", help="run this mutant only (may be repeated)")
    parser.add_argument("--workers", type=int, default=2, help="mutants side by side")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--check", action="store_true", help="only check that every mutant still fits the code")
    options = parser.parse_args(arguments)
    root = options.root.resolve()

    try:
        mutants = load_mutants(root)
    except MutantError as error:
        print(f"error: {error}")
        return 2
    if options.check:
        print(f"{len(mutants)} mutants fit the code")
        return 0
    unknown = set(options.only or ()) - {mutant.name for mutant in mutants}
    if unknown:
        print(f"error: no mutant named {', '.join(sorted(unknown))}")
        return 2
    mutants = [mutant for mutant in mutants if not options.only or mutant.name in options.only]

    tests = sorted({mutant.test for mutant in mutants})
    print(f"{len(tests)} tests on the code as it is ...", flush=True)
    with ThreadPoolExecutor(max_workers=options.workers) as pool:
        shares = shares_of(tests, options.workers)
        ended = list(pool.map(lambda share: run_pytest(share, root / "src", root), shares))
        if failed := [process for process in ended if process.returncode != 0]:
            for process in failed:
                print(tail(process.stdout))
            print("error: these tests must pass (and run) without a mutant first")
            return 2
        verdicts = []
        for verdict in pool.map(lambda mutant: try_mutant(mutant, root), mutants):
            print(f"{verdict.outcome:10} {verdict.seconds:6.1f} s  {verdict.name}", flush=True)
            verdicts.append(verdict)
    alive = [verdict for verdict in verdicts if not verdict.is_killed]
    for verdict in alive:
        print(f"\n--- {verdict.name}: {verdict.outcome}\n{tail(verdict.output)}")
    print(f"{len(verdicts) - len(alive)} of {len(verdicts)} mutants killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
