"""-q leaves results and errors, -v says where an error arose, and both may stand anywhere."""

from __future__ import annotations

import logging

import pytest

import whet
from whet.cli import output, verbosity
from whet.cli.arguments import complete


@pytest.fixture(autouse=True)
def restored():
    """Every test begins and ends without a choice."""
    level = logging.getLogger("whet").level
    verbosity.choose(is_quiet=False, is_verbose=False)
    yield
    verbosity.choose(is_quiet=False, is_verbose=False)
    logging.getLogger("whet").setLevel(level)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("train r.yaml -q", "-q train r.yaml"),
        ("train r.yaml --resume --quiet", "--quiet train r.yaml --resume=auto"),
        ("-v report runs/a", "-v report runs/a"),
        ("generate m --prompt -v", "generate m --prompt -v"),
        ("generate m -q --prompt hi", "-q generate m --prompt hi"),
        ("train r.yaml -- -q", "train r.yaml -- -q"),
        ("chat runs/a -v", "chat runs/a -v"),
    ],
)
def test_the_flags_may_stand_anywhere(typed, completed):
    assert complete(typed.split()) == completed.split()


def test_quiet_leaves_out_how_far_something_is_and_keeps_results(capsys):
    output.note("half way")
    verbosity.choose(is_quiet=True, is_verbose=False)
    output.note("nearly there")
    output.say("better")
    assert capsys.readouterr().out == "half way\nbetter\n"


def test_verbose_shows_where_an_error_arose_and_still_ends_with_the_error(call, tmp_path):
    missing = str(tmp_path / "none.yaml")
    code, _, plain = call("train", missing)
    assert code == 2 and "Traceback" not in plain
    code, _, told = call("train", missing, "-v")
    assert code == 2 and "Traceback" in told and told.endswith(plain)


def test_an_error_without_a_mend_ends_with_the_help_of_its_verb(call, tmp_path):
    (tmp_path / "a.yaml").write_text("name: [a\n")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    assert "mend:" in call("train", str(tmp_path / "a.yaml"))[2]
    assert call("train", str(tmp_path / "b.yaml"))[2].endswith("whet train --help every option\n")


def test_the_version_is_told(call):
    assert call("--version") == (0, f"whet {whet.__version__}\n", "")
