"""The run folder is read as far as it goes."""

import shutil

import pytest

from whet.report.metrics_log import finite
from whet.report.run_folder import read_run_folder


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), 10**400, 1e300, [1]])
def test_what_is_no_plottable_number_is_none(value: object) -> None:
    assert finite(value) is None


def test_numbers_come_through() -> None:
    assert finite(3) == 3.0
    assert finite(-0.5) == -0.5


def test_a_step_logged_twice_counts_once_and_the_later_line_wins(make_run) -> None:
    folder = make_run(num_steps=5)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 3, "loss": 9.0}\n{"kind": "step", "st')
    run = read_run_folder(folder)
    assert [point.step for point in run.steps] == [1, 2, 3, 4, 5]
    assert run.steps[2].loss == 9.0
    assert run.problems == ("1 unreadable line was left out, the first is demo-run/metrics.jsonl:14",)


def test_answers_are_paired_by_id(make_run) -> None:
    folder = make_run()
    tuned = folder / "evaluations" / "sums" / "tuned.jsonl"
    lines = tuned.read_text().splitlines(keepends=True)
    tuned.write_text("".join(lines[:0:-1]))
    (evaluation,) = read_run_folder(folder).evaluations
    assert [pair.id for pair in evaluation.pairs] == [f"row-{i} plain" for i in range(1, 40)]
    assert all(pair.tuned.text.startswith("tuned") and pair.base.text.startswith("base") for pair in evaluation.pairs)


def test_the_sets_that_the_verdict_rests_on_come_first(make_run) -> None:
    folder = make_run()
    (folder / "evaluations" / "sums").rename(folder / "evaluations" / "zoo")
    shutil.copytree(folder / "evaluations" / "zoo", folder / "evaluations" / "arithmetic")
    entry = "{{name: {name}, role: {role}, source: {{source: {name}.jsonl}}}}"
    entries = ", ".join((entry.format(name="arithmetic", role="other"), entry.format(name="zoo", role="main")))
    with (folder / "recipe.yaml").open("a", encoding="utf-8") as recipe:
        recipe.write(f"evaluate: [{entries}]\n")
    assert [e.dataset for e in read_run_folder(folder).evaluations] == ["zoo", "arithmetic"]
