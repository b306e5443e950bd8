"""What differs from when a run began: all of it told, accepted only on request, some of it never."""

from __future__ import annotations

import pytest

from whet.errors import RecipeError
from whet.recipe import parse_recipe
from whet.train.changes import Change, differences, recipe_changes, settle, why_never

RECIPE = """\
name: x
output: run
data: {train: [{source: rows.jsonl}]}
"""
DIGEST = "0123456789abcdef" * 4


def changes(more: str) -> list[str]:
    return [str(change) for change in recipe_changes(parse_recipe(RECIPE), parse_recipe(RECIPE + more))]


def test_each_changed_setting_is_told_with_both_values():
    assert changes("optim: {lr: 1.0e-3, betas: [0.9, 0.99]}\nseed: 7\n") == [
        "optim.betas.1: 0.999 -> 0.99",
        "optim.lr: 0.0002 -> 0.001",
        "seed: 42 -> 7",
    ]
    assert changes("callbacks: [{name: spectral}]\n")[0] == "callbacks.0.balance: none -> 0.8"
    assert changes("train: {keep: 9, threads: 3}\ntracking: []\nparallel: {timeout_seconds: 5}\n") == []


def test_what_is_gone_and_what_is_new_are_differences_too():
    found = differences({"a": 1, "b": DIGEST}, {"b": DIGEST[::-1], "c": 3}, prefix="file ")
    assert [str(change) for change in found] == [
        "file a: 1 -> none", f"file b: {DIGEST[:12]} -> {DIGEST[::-1][:12]}", "file c: none -> 3",
    ]  # fmt: skip


def test_changes_are_refused_together_and_accepted_aloud():
    found = [Change(what="optim.lr", before=1, now=2), Change(what="data file x", before="a", now=None)]
    with pytest.raises(RecipeError, match=r"(?s)optim\.lr: 1 -> 2\n  data file x: 'a' -> none.*--accept-changes"):
        settle(found, where="run", is_accepting=False)
    said: list[str] = []
    assert settle(found, where="run", is_accepting=True, say=said.append) == [str(change) for change in found]
    assert said == [f"accepted: {change}" for change in found]
    assert settle([], where="run", is_accepting=False) == []


@pytest.mark.parametrize(
    ("what", "is_never"),
    [
        ("adapter.rank", True), ("adapter.targets.0", True), ("adapter.init", True), ("adapter.dropout", False),
        ("adapter.lr_ratio", False), ("optim.name", True), ("optim.lr", False), ("train.best_metric", True),
        ("rows validation", True), ("rows train", False), ("evaluate.sums.max_rows", True), ("model.id", False),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_checkpoint_is_never_accepted(what, is_never):
    found = [Change(what=what, before=1, now=2)]
    assert (why_never(what) is not None) == is_never
    if is_never:
        with pytest.raises(RecipeError, match="no run can be continued with"):
            settle(found, where="run", is_accepting=True)
    else:
        assert settle(found, where="run", is_accepting=True)
