"""The exit code of a launch is what its ranks wrote down; torchrun itself says 1 or 0."""

from __future__ import annotations

import pytest

from whet.launch.outcome import of_this_launch, outcome_of
from whet.parallel.status import RankStatus


def end(rank: int, state: str, code: int | None = None, *, time: float = 0.0, error: str = "") -> RankStatus:
    return RankStatus(rank=rank, world_size=2, state=state, exit_code=code, time=time, error=error, host=f"node{rank}")


CASES = {
    "a recipe error on both": ([end(0, "failed", 2), end(1, "failed", 2)], False, 2),
    "data on one, the other is stopped for it": ([end(0, "interrupted", 75), end(1, "failed", 3)], False, 3),
    "data on one, the other loses it": ([end(0, "failed", 7, time=1.0), end(1, "failed", 3, time=2.0)], False, 3),
    "storage while it was asked to stop": ([end(0, "failed", 5), end(1, "interrupted", 75)], True, 5),
    "all interrupted": ([end(0, "interrupted", 75), end(1, "interrupted", 75)], False, 75),
    "asked to stop and killed while saving": ([end(0, "running"), end(1, "interrupted", 75)], True, 75),
    "asked to stop before a rank had begun": ([], True, 75),
    "one killed, the other loses it": ([end(0, "failed", 7), end(1, "running")], False, 7),
    "one killed, the other is stopped for it": ([end(0, "interrupted", 75), end(1, "running")], False, 7),
    "a machine is gone": ([end(0, "failed", 7), end(1, "failed", 7)], False, 7),
    "an unexpected error, then its loss": ([end(0, "failed", 7, time=2.0), end(1, "failed", 1, time=1.0)], False, 1),
    "a loss, then its echo": ([end(0, "failed", 7, time=1.0), end(1, "failed", 1, time=2.0)], False, 7),
    "out of memory beside an unexpected error": ([end(0, "failed", 1, time=1.0), end(1, "failed", 9)], False, 9),
    "nobody wrote anything": ([], False, 1),
    "finished, but torchrun failed": ([end(0, "finished", 0), end(1, "finished", 0)], False, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_decides_not_its_consequences(name):
    ends, asked, code = CASES[name]
    assert outcome_of(1, ends, was_asked_to_stop=asked).exit_code == code


def test_a_launch_that_torchrun_calls_finished_is_finished():
    assert outcome_of(0, [end(0, "finished", 0)], was_asked_to_stop=True).exit_code == 0


def test_the_sentence_names_the_rank_and_its_first_line():
    ends = [end(1, "failed", 3, error="rows.jsonl:7: no answer\n  mend: add one"), end(0, "failed", 7)]
    assert outcome_of(1, ends, was_asked_to_stop=False).sentence == "rank 1 ended the run: rows.jsonl:7: no answer"


def test_a_rank_that_ended_without_a_word_is_named_with_its_machine():
    sentence = outcome_of(1, [end(0, "failed", 7), end(1, "running")], was_asked_to_stop=False).sentence
    assert sentence.startswith("rank 1 on node1 ended without a word")


def test_only_a_launch_without_a_cause_shows_torchrun_s_own_words():
    assert not outcome_of(1, [], was_asked_to_stop=False).is_known
    assert outcome_of(1, [end(0, "failed", 1)], was_asked_to_stop=False).is_known


def test_what_an_earlier_launch_of_more_ranks_left_does_not_count():
    before = [end(0, "failed", 3, time=1.0), end(1, "failed", 3, time=1.0), end(2, "failed", 3, time=1.0)]
    now = [end(0, "interrupted", 75, time=9.0), end(1, "interrupted", 75, time=9.0), before[2]]
    assert of_this_launch(before, now) == now[:2]
