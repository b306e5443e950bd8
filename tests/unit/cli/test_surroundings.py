"""Before a command runs its surroundings are made fit, or it is said why they are not."""

from __future__ import annotations

import os
import resource

import pytest

from whet.cli import surroundings
from whet.errors import RecipeError


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch):
    """Pretends a soft and a hard limit of open files; the list of what is set."""
    chosen: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: chosen.append(pair))

    def pretend(soft: int, hard: int) -> list[tuple[int, int]]:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        return chosen

    return pretend


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(64, 512, [(512, 512)]), (1024, 1 << 20, [(4096, 1 << 20)]), (1 << 20, 1 << 20, []), (1024, -1, [(4096, -1)])],
)
def test_the_soft_limit_of_open_files_follows_the_hard_one(limits, soft, hard, expected):
    chosen = limits(soft, hard)
    surroundings.prepare()
    assert chosen == expected


def test_too_few_open_files_are_refused_with_the_command_that_helps(limits):
    limits(20, 20)
    with pytest.raises(RecipeError, match="may open 20 files only") as caught:
        surroundings.prepare()
    assert "ulimit -n" in caught.value.mend


def test_a_folder_that_is_gone_is_refused(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(RecipeError, match="has been removed"):
        surroundings.prepare()


def test_nothing_is_open_to_every_user_whatever_the_umask():
    before = os.umask(0)
    try:
        surroundings.prepare()
        assert os.umask(0) == 0o002
    finally:
        os.umask(before)
