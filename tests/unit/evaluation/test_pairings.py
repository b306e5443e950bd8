"""Run folders become sides: base against tuned, run against run, or seeds of one recipe; unlike ones are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_reports import report, write_run

from whet.errors import RecipeError, StorageError
from whet.evaluation.pairings import pair_base_with_runs, pair_runs


def run(folder: Path, num_correct: int, *, sets: tuple[str, ...] = ("sums",), base: str = "base", **recipe) -> Path:
    """A run on 50 rows whose base has 10 right and whose tuned model has `num_correct`."""
    reports = []
    for name in sets:
        reports.append(report("base", [i < 10 for i in range(50)], weights=base, dataset=name))
        tuned = report("demo", [i < num_correct for i in range(50)], weights=folder.name, dataset=name)
        reports.append(replace(tuned, seen_in_training=(f"row-{num_correct}",)))
    return write_run(folder, *reports, **recipe)


def test_one_run_is_its_base_against_its_tuned_model(tmp_path):
    found = pair_base_with_runs([run(tmp_path / "a", 30, sets=("sums", "words"))])
    assert list(found.sides) == ["sums", "words"]
    base, tuned = found.sides["sums"]
    assert (base.name, base.is_trained, len(base.reports)) == ("base", False, 1)
    assert (tuned.name, tuned.reports[0].accuracy, found.seed, found.notes) == ("tuned", 0.6, 7, ())
    assert list(pair_base_with_runs([tmp_path / "a"], dataset="words").sides) == ["words"]


def test_several_runs_are_seeds_against_the_base_they_share(tmp_path):
    runs = [run(tmp_path / f"s{seed}", 20 + seed, seed=seed) for seed in range(3)]
    found = pair_base_with_runs(runs)
    base, tuned = found.sides["sums"]
    assert len(base.reports) == 1
    assert [each.accuracy for each in tuned.reports] == [0.4, 0.42, 0.44]
    assert found.notes == ()


def test_runs_over_another_base_are_refused(tmp_path):
    runs = [run(tmp_path / "a", 20), run(tmp_path / "b", 20, base="other", seed=8)]
    with pytest.raises(RecipeError, match=r"b was tuned from another base than .*a"):
        pair_base_with_runs(runs)


def test_run_against_run_is_tuned_against_tuned_by_their_names(tmp_path):
    first, second = run(tmp_path / "a", 20), run(tmp_path / "b", 30, base="other")
    base, tuned = pair_runs([first], [second]).sides["sums"]
    assert (base.name, base.reports[0].accuracy) == ("a", 0.4)
    assert (tuned.name, tuned.reports[0].accuracy) == ("b", 0.6)
    seen = [each.seen_in_training for side in (base, tuned) for each in side.reports]
    assert seen == [("row-20",), ("row-30",)]


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path):
    first, second = run(tmp_path / "x" / "demo", 20), run(tmp_path / "y" / "demo", 30)
    base, tuned = pair_runs([first], [second]).sides["sums"]
    assert (base.name, tuned.name) == (str(first), str(second))


def test_sets_that_only_some_have_are_named_and_left_out(tmp_path):
    runs = [run(tmp_path / "a", 20, sets=("sums", "words")), run(tmp_path / "b", 20, sets=("sums",))]
    found = pair_runs(runs[:1], runs[1:])
    assert list(found.sides) == ["sums"]
    assert found.notes == ("words: only some of the runs have answers on it, so it is not compared.",)
    with pytest.raises(StorageError, match=r"b: holds no answers on 'words'"):
        pair_runs(runs[:1], runs[1:], dataset="words")
    with pytest.raises(RecipeError, match="no evaluation set in common"):
        pair_runs([run(tmp_path / "c", 20, sets=("words",))], runs[1:])


def test_runs_that_differ_in_more_than_their_seed_are_told(tmp_path):
    runs = [run(tmp_path / "a", 20, seed=1), run(tmp_path / "b", 21, seed=1, lr=3e-4)]
    found = pair_base_with_runs(runs)
    assert found.notes == (
        "a, b: not every run has a seed of its own.",
        "a, b: counted as seeds of one recipe, but they also differ in optim.lr.",
    )
