"""The skip gate of tests/conftest.py, run on small suites."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

# two plugins that the suites do not need and that take most of their time
FAST = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")

SUITE = """
import pytest

def test_runs():
    pass

@pytest.mark.parametrize("size", [1, 2])
def test_needs_a_machine(size):
    pytest.skip("needs a CUDA device")
"""


@pytest.fixture
def run_suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Runs `suite` under the gate with the allow-list `allowed`; returns pytest's result."""

    def run(suite: str, *, allowed: str = "", ci: str = "true", arguments: tuple[str, ...] = ()) -> pytest.RunResult:
        pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
        pytester.path.joinpath("allowed_skips.txt").write_text(allowed, encoding="utf-8")
        pytester.makepyfile(test_suite=suite)
        monkeypatch.setenv("CI", ci)
        return pytester.runpytest_inprocess(*FAST, *arguments)

    return run


def test_an_unlisted_skip_fails_the_run_and_is_named(run_suite):
    result = run_suite(SUITE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["skip gate: 2 skipped, 2 of them not in allowed_skips.txt", "skip gate: FAILED*"])
    result.stdout.fnmatch_lines(["*test_suite.py::test_needs_a_machine?1? | needs a CUDA device"])


def test_a_listed_skip_passes_and_is_counted(run_suite):
    result = run_suite(SUITE, allowed="# why\n\ntest_suite.py::test_needs_a_machine[*] | needs a CUDA*\n")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["skip gate: 2 skipped, 0 of them not in allowed_skips.txt"])


def test_a_listed_test_that_skips_for_another_reason_fails_the_run(run_suite):
    result = run_suite(SUITE, allowed="* | WHET_TEST_DATA is not set\n")
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_brackets_of_a_test_id_are_not_wildcards(run_suite):
    result = run_suite(SUITE, allowed="test_suite.py::test_needs_a_machine[1] | *\n")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["skip gate: 2 skipped, 1 of them not in allowed_skips.txt"])


def test_outside_ci_skips_are_counted_but_do_not_fail(run_suite):
    result = run_suite(SUITE, ci="")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["skip gate: 2 skipped, 2 of them not in allowed_skips.txt"])


@pytest.mark.slow
def test_a_file_that_skips_itself_while_collected_is_caught_under_xdist(run_suite):
    suite = "import pytest\npytest.skip('no such library', allow_module_level=True)\n"
    result = run_suite(suite + "def test_never(): pass\n", arguments=("-n", "2"))
    result.stdout.fnmatch_lines(["skip gate: 1 skipped, 1 of them not in allowed_skips.txt", "skip gate: FAILED*"])
    assert result.ret != pytest.ExitCode.OK


@pytest.mark.slow
def test_skips_in_xdist_workers_fail_the_run(run_suite):
    result = run_suite(SUITE, arguments=("-n", "2"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["skip gate: 2 skipped, 2 of them not in allowed_skips.txt"])


def test_an_expected_failure_must_be_listed_too(run_suite):
    suite = "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_x(): assert False\n"
    assert run_suite(suite).ret == pytest.ExitCode.TESTS_FAILED
    assert run_suite(suite, allowed="* | expected failure: known\n").ret == pytest.ExitCode.OK


def test_a_malformed_line_of_the_list_is_an_error(run_suite):
    result = run_suite(SUITE, allowed="test_suite.py::test_needs_a_machine\n")
    assert result.ret not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
    assert "allowed_skips.txt:1" in result.stdout.str() + result.stderr.str()
