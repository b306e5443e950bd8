"""SIGTERM and SIGINT in every phase, once and twice: exit 75, nothing lost, and the same command ends the same."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from altered_programs import PHASE_FILE
from forked_runs import ForkedRuns
from test_after_training import with_questions
from workplace import Uninterrupted, Workplace

from whet.checkpoint.load import newest_checkpoint

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]

AT_ONCE = "stopped at once as asked"
ALTERED = "import altered_programs; altered_programs.{}()"
PROMISE = {
    "fault": "SIGTERM or SIGINT, once or twice, in any phase",
    "group": "kill",
    "lost": "nothing after one signal; after two the steps since the last checkpoint",
    "note": "exit 75; the same command ends with the same SHA-256",
}


def signalled(
    place: Workplace, paused: str, *signals: signal.Signals, arguments: tuple[str, ...] = ()
) -> tuple[int, str]:
    """The command in its own process, with `signals` sent where it pauses: (exit code, what it said)."""
    phase = place.folder / f"phase-{paused}"
    place.environment[PHASE_FILE] = str(phase)
    place.environment["PYTHONPATH"] += f":{Path(__file__).parents[1] / 'support'}"
    process = place.start(*(arguments or ("train", str(place.recipe))), program=("-c", ALTERED.format(paused)))
    place.wait_until(phase.exists, process)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.5)  # a handler runs before the next one comes; signals that wait together may be merged
    said, _ = process.communicate(timeout=600)
    phase.unlink()
    return process.returncode, said


def goes_on(forked: ForkedRuns, place: Workplace, uninterrupted: Uninterrupted) -> bool:
    ended = forked.run("train", str(place.recipe), folder=place.folder, environment=place.environment)
    is_equal = place.hashes() == uninterrupted.hashes and place.trajectory() == uninterrupted.trajectory
    return ended.code == 0 and is_equal and not list((place.folder / "run").glob(".*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_tokenizing_nothing_is_half_written(workplace, uninterrupted, forked, outcome, number):
    code, said = signalled(workplace, "paused_while_tokenizing", number)
    drafts = list((workplace.folder / "cache" / "tokens").glob("*.draft"))
    held = code == 75 and AT_ONCE in said and "Traceback" not in said and not drafts
    held = held and goes_on(forked, workplace, uninterrupted)
    outcome(tries=1, held=int(held), **PROMISE)
    assert held, said


def test_in_the_first_step_one_signal_lets_it_end_and_saves_it_and_two_leave_at_once(
    workplace, uninterrupted, forked, outcome
):
    code, said = signalled(workplace, "paused_in_the_first_step", signal.SIGTERM, signal.SIGINT)
    at_once = code == 75 and AT_ONCE in said and "Traceback" not in said and workplace.last_step() == 0
    code, said = signalled(workplace, "paused_in_the_first_step", signal.SIGTERM)
    checkpoint, notes = newest_checkpoint(workplace.folder / "run")
    is_saved = code == 75 and checkpoint is not None and (checkpoint.step, notes) == (workplace.last_step(), [])
    held = at_once and is_saved and goes_on(forked, workplace, uninterrupted)
    outcome(tries=2, held=2 * held, **PROMISE)
    assert held, said


@pytest.mark.parametrize("twice", [False, True])
def test_while_a_checkpoint_is_written_it_is_whole_afterwards(workplace, uninterrupted, forked, outcome, twice):
    signals = [signal.SIGTERM, signal.SIGTERM] if twice else [signal.SIGTERM]
    code, said = signalled(workplace, "paused_in_a_checkpoint", *signals)
    checkpoint, notes = newest_checkpoint(workplace.folder / "run")
    is_whole = checkpoint is not None and notes == [] and (twice or checkpoint.step == workplace.last_step())
    held = code == 75 and is_whole and "Traceback" not in said and goes_on(forked, workplace, uninterrupted)
    outcome(tries=1, held=int(held), **PROMISE)
    assert held, said


def test_in_an_evaluation_the_answers_stay(workplace, uninterrupted, forked, outcome):
    run = with_questions(workplace, uninterrupted)
    before = (run / "metrics.jsonl").read_bytes()
    code, said = signalled(workplace, "paused_in_an_evaluation", signal.SIGTERM)
    is_told = code == 75 and AT_ONCE in said and "training is finished and its weights are in" in said
    again = forked.run("train", str(workplace.recipe), folder=workplace.folder, environment=workplace.environment)
    is_whole = again.code == 0 and "12 rows before" in again.said and (run / "metrics.jsonl").read_bytes() == before
    outcome(tries=1, held=int(is_told and is_whole), **PROMISE)
    assert is_told, said
    assert is_whole, again.said


def test_in_an_export_nothing_is_left(workplace, uninterrupted, outcome):
    run = uninterrupted.copy_to(workplace, is_finished=True)
    target = workplace.folder / "out"
    arguments = ("export", str(run), "--to", "adapter", "--output", str(target))
    code, said = signalled(workplace, "paused_in_an_export", signal.SIGTERM, arguments=arguments)
    held = code == 75 and AT_ONCE in said and not target.exists() and not list(workplace.folder.glob(".out.*"))
    outcome(tries=1, held=int(held), **PROMISE)
    assert held, said


def test_at_the_start_a_signal_leaves_with_75(workplace, uninterrupted, forked, outcome):
    """Before the rows are read; earlier, while Python itself starts, there is nothing yet to save."""
    process = workplace.train_until(lambda: (workplace.folder / "run" / ".lock").exists())
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=600)
    held = process.returncode == 75 and "Traceback" not in said and goes_on(forked, workplace, uninterrupted)
    outcome(tries=1, held=int(held), **PROMISE)
    assert held, said
