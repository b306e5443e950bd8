"""A short piece of `make fuzz`, always the same: every corpus, some of it damaged, and some drawn documents."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from fuzz_documents import documents
from fuzz_inputs import CANARY, CORPUS, WORDS, corpus_of, mutated
from fuzz_targets import TARGETS, open_target
from hypothesis import HealthCheck, Phase, given, settings

NUM_DAMAGED, NUM_DRAWN = 60, 20
NUM_OF_SLOW = 3
"""for what goes through a child process, or renders a whole report"""


def test_every_target_has_a_corpus_and_every_corpus_a_target():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(corpus_of(name) for name in TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_ends_in_a_result_or_in_an_error_of_its_own(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    target, scratch = TARGETS[name], tmp_path / "scratch"
    scratch.mkdir()
    parse = open_target(name, scratch)
    entries, random = corpus_of(name), Random(name)

    def read(data: bytes) -> None:
        try:
            parse(data)
        except target.raises:
            return

    is_slow = target.uses_child or name == "run-folder"
    few = NUM_OF_SLOW if is_slow else NUM_DAMAGED
    for data in [*entries, *(mutated(random.choice(entries), entries, WORDS, random) for _ in range(few))]:
        read(data)

    @settings(max_examples=NUM_OF_SLOW if is_slow else NUM_DRAWN, derandomize=True, database=None,
              deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(documents(name))
    def drawn(data: bytes) -> None:
        read(data)

    drawn()
    assert not (tmp_path / CANARY).exists() and not (scratch / CANARY).exists(), "an input was executed"
