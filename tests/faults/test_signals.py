"""SIGTERM and SIGINT in every phase, once and twice: exit 75, nothing lost, and the same command ends the same."""

from __future__ import annotations

import pytest
from altered_programs import SIGNALS
from forked_runs import Ended, ForkedRuns
from questioned_runs import with_questions
from workplace import Uninterrupted, Workplace

from whet.checkpoint.load import newest_checkpoint

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1500)]

AT_ONCE = "stopped at once as asked"
PROMISE = {
    "fault": "SIGTERM or SIGINT, once or twice, in any phase",
    "group": "kill",
    "lost": "nothing after one signal; after two the steps since the last checkpoint",
    "note": "exit 75; the same command ends with the same SHA-256",
}


def signalled(forked: ForkedRuns, place: Workplace, program: str, signals: str, *arguments: str) -> Ended:
    """The command, to which `signals` come where `program` says."""
    return forked.run(
        *(arguments or ("train", str(place.recipe))), program=f"altered_programs:{program}", folder=place.folder,
        environment=place.environment | {SIGNALS: signals},
    )  # fmt: skip


def goes_on(forked: ForkedRuns, place: Workplace, uninterrupted: Uninterrupted) -> bool:
    ended = forked.run("train", str(place.recipe), folder=place.folder, environment=place.environment)
    is_equal = place.hashes() == uninterrupted.hashes and place.trajectory() == uninterrupted.trajectory
    return ended.code == 0 and is_equal and not list((place.folder / "run").glob(".*.tmp"))


def left_at_once(ended: Ended) -> bool:
    return ended.code == 75 and AT_ONCE in ended.said and "Traceback" not in ended.said


def test_before_the_first_step_nothing_is_half_written(workplace, uninterrupted, forked, outcome):
    first = signalled(forked, workplace, "signalled_at_the_start", "SIGTERM")
    second = signalled(forked, workplace, "signalled_while_tokenizing", "SIGINT")
    drafts = list((workplace.folder / "cache" / "tokens").glob("*.draft"))
    held = left_at_once(first) and left_at_once(second) and not drafts and goes_on(forked, workplace, uninterrupted)
    outcome(tries=2, held=2 * held, **PROMISE)
    assert held, first.said + second.said


def test_in_the_first_step_one_signal_lets_it_end_and_saves_it_and_two_leave_at_once(
    workplace, uninterrupted, forked, outcome
):
    twice = signalled(forked, workplace, "signalled_in_the_first_step", "SIGTERM,SIGINT")
    is_at_once = left_at_once(twice) and workplace.last_step() == 0
    once = signalled(forked, workplace, "signalled_in_the_first_step", "SIGTERM")
    checkpoint, notes = newest_checkpoint(workplace.folder / "run")
    is_saved = once.code == 75 and "the state is saved" in once.said and checkpoint is not None
    is_saved = is_saved and (checkpoint.step, workplace.last_step(), notes) == (1, 1, [])
    held = is_at_once and is_saved and goes_on(forked, workplace, uninterrupted)
    outcome(tries=2, held=2 * held, **PROMISE)
    assert held, twice.said + once.said


@pytest.mark.parametrize("signals", ["SIGTERM", "SIGTERM,SIGTERM"])
def test_while_a_checkpoint_is_written_it_is_whole_or_absent_afterwards(
    workplace, uninterrupted, forked, outcome, signals
):
    ended = signalled(forked, workplace, "signalled_in_a_checkpoint", signals)
    checkpoint, notes = newest_checkpoint(workplace.folder / "run")
    is_whole = notes == [] and checkpoint is not None
    is_whole = is_whole and ("," in signals or checkpoint.step == workplace.last_step())
    held = ended.code == 75 and is_whole and "Traceback" not in ended.said and goes_on(forked, workplace, uninterrupted)
    outcome(tries=1, held=int(held), **PROMISE)
    assert held, ended.said


def test_in_an_evaluation_the_answers_stay(workplace, uninterrupted, forked, outcome):
    run = with_questions(workplace, uninterrupted)
    before = (run / "metrics.jsonl").read_bytes()
    ended = signalled(forked, workplace, "signalled_in_an_evaluation", "SIGTERM")
    is_told = left_at_once(ended) and "training is finished and its weights are in" in ended.said
    again = forked.run("train", str(workplace.recipe), folder=workplace.folder, environment=workplace.environment)
    is_whole = again.code == 0 and "sums: tuned answered before" in again.said
    held = is_told and is_whole and (run / "metrics.jsonl").read_bytes() == before
    outcome(tries=1, held=int(held), **PROMISE)
    assert held, ended.said + again.said


def test_in_an_export_nothing_is_left(workplace, uninterrupted, forked, outcome):
    run = uninterrupted.copy_to(workplace, is_finished=True)
    target = workplace.folder / "out"
    arguments = ("export", str(run), "--to", "adapter", "--output", str(target))
    ended = signalled(forked, workplace, "signalled_in_an_export", "SIGTERM", *arguments)
    held = left_at_once(ended) and not target.exists() and not list(workplace.folder.glob(".out.*"))
    outcome(tries=1, held=int(held), **PROMISE)
    assert held, ended.said
