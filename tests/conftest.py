"""Skip gate: under CI=true a skipped test that tests/allowed_skips.txt does not list makes the run fail.

A suite that quietly skips is green and proves nothing. The counts are printed after every run, CI or not.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester"]

ALLOWED_SKIPS_FILE = Path(__file__).with_name("allowed_skips.txt")
skips: dict[str, str] = {}
"""Test id -> reason, of this run; a dict because every xdist worker reports a skipped file."""


# What was started in the background or by nohup ignores these, and so would every process that a test interrupts.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real data rows (WHET_TEST_DATA), or the test is skipped."""
    folder = os.environ.get("WHET_TEST_DATA")
    if not folder:
        pytest.skip("WHET_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def chatml() -> Any:
    """A tiny tokenizer like SmolLM2's: pad == eos, no BOS."""
    import tiny_tokenizers

    return tiny_tokenizers.build_chatml()


@pytest.fixture(scope="session")
def llama3() -> Any:
    """A tiny tokenizer like Llama 3's: BOS in the template."""
    import tiny_tokenizers

    return tiny_tokenizers.build_llama3()


def load_allowed_skips(path: Path) -> list[tuple[re.Pattern[str], re.Pattern[str]]]:
    """Pairs of (test id pattern, reason pattern); a line without ` | ` is an error."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        test_id, bar, reason = line.partition(" | ")
        if not bar:
            raise pytest.UsageError(f"{path}:{number}: expected `test id pattern | reason pattern`")
        pairs.append((_wildcard(test_id), _wildcard(reason)))
    return pairs


def _wildcard(pattern: str) -> re.Pattern[str]:
    # not fnmatch: the brackets of a parametrised test id would be read as a character set
    return re.compile(re.escape(pattern.strip()).replace(r"\*", ".*"), re.DOTALL)


def unlisted_skips() -> dict[str, str]:
    """The skips of this run that no line of the allow-list covers."""
    allowed = load_allowed_skips(ALLOWED_SKIPS_FILE)
    return {
        test_id: reason
        for test_id, reason in sorted(skips.items())
        if not any(id_re.fullmatch(test_id) and reason_re.fullmatch(reason) for id_re, reason_re in allowed)
    }


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped:
        return
    if hasattr(report, "wasxfail"):
        skips[report.nodeid] = f"expected failure: {report.wasxfail}"
    else:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skips[report.nodeid] = reason.removeprefix("Skipped: ")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    is_worker = hasattr(session.config, "workerinput")
    if not is_worker and _is_ci() and session.exitstatus == pytest.ExitCode.OK and unlisted_skips():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    unlisted = unlisted_skips()
    terminalreporter.write_line(
        f"skip gate: {len(skips)} skipped, {len(unlisted)} of them not in {ALLOWED_SKIPS_FILE.name}"
    )
    for reason, count in Counter(skips.values()).most_common():
        terminalreporter.write_line(f"  {count} x {reason}")
    if unlisted and _is_ci():
        terminalreporter.write_line("skip gate: FAILED, these tests must run or be listed:", red=True)
        for test_id, reason in unlisted.items():
            terminalreporter.write_line(f"  {test_id} | {reason}", red=True)


def _is_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}
