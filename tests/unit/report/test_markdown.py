"""`whet report --markdown`: short, verdict first, and nothing that a run holds acts on the page it is pasted into."""

from __future__ import annotations

import re

import pytest

from whet.report.markdown import _plain, render_markdown
from whet.report.run_folder import read_run_folder

HOSTILE = "<img src=x> [x](http://evil) ![p](//e) @team #12 GH-7 www.evil.example | `a` **b** \u202e\n# head\n```\n~~~"


def test_it_is_short_and_begins_with_the_verdict(make_run):
    text = render_markdown(read_run_folder(make_run()))
    assert text.startswith("### demo-run: better\n") and len(text.splitlines()) < 40
    assert "| answer_accuracy" in text and "whet reproduce demo-run" in text and text.endswith("```\n")
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in tables if "answer_accuracy" in line} == {9}


def test_texts_of_a_run_stay_text(make_run):
    text = render_markdown(read_run_folder(make_run(HOSTILE)))
    before_commands = text[: text.index("```sh")]
    for active in ("<img", "[x](", "![", "@team", "#12", "://", "www.", "\u202e", "\n# head", "\n```", "\n~~~"):
        assert active not in before_commands, active
    rows = [line for line in before_commands.splitlines() if line.startswith("| ") and "measured" not in line]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 9}
    assert text.count("\n```") == 2


@pytest.mark.parametrize(("said", "written"), [("answer_accuracy", "answer_accuracy"), ("_a_ *b*", r"\_a\_ \*b\*"),
                                               ("+3.1 (2.0 to 4.2) #1", "+3.1 (2.0 to 4.2) #<!-- -->1")])  # fmt: skip
def test_only_what_acts_is_escaped(said, written):
    assert _plain(said) == written


def test_without_a_comparison_nothing_is_claimed(make_run):
    run = make_run()
    (run / "evaluations" / "sums" / "comparison.json").unlink()
    assert "nothing is claimed" in render_markdown(read_run_folder(run)).splitlines()[0]
