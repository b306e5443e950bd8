"""SIGKILL at random moments of a run, from its start to its last file: the same command ends as if nothing had been.

Compared are SHA-256 of the final adapter and of the last checkpoint's weights and moments, and every step's numbers.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time

import pytest
from forked_runs import ForkedRuns
from workplace import Uninterrupted, Workplace, make_workplace

from whet.checkpoint.load import newest_checkpoint

pytestmark = pytest.mark.fault

NUM_KILLS, KILLS_OF_A_TEST, NUM_STOPS, NUM_KILLS_OF_COMMANDS, TOTAL_STEPS = 50, 5, 10, 4, 8
SAVE_EVERY = (1, 3)


def redone_steps(place: Workplace) -> int:
    """Steps that a killed run had made and its newest whole checkpoint does not have; nothing else may lie there."""
    checkpoint, notes = newest_checkpoint(place.folder / "run")
    assert notes == [], "a kill never leaves a checkpoint that looks whole and is not"
    return place.last_step() - (checkpoint.step if checkpoint else 0)


def is_as_never_killed(place: Workplace, uninterrupted: Uninterrupted) -> bool:
    steps = [record["step"] for record in place.steps()]
    leftovers = list((place.folder / "run").rglob("*.tmp"))
    return (
        steps == list(range(1, TOTAL_STEPS + 1))
        and place.trajectory() == uninterrupted.trajectory
        and place.hashes() == uninterrupted.hashes
        and not leftovers
    )


@pytest.fixture(scope="module")
def whole_seconds(tmp_path_factory: pytest.TempPathFactory, tiny_model, uninterrupted, forked: ForkedRuns) -> float:
    """Processor time of a run that nobody disturbs."""
    place = make_workplace(tmp_path_factory.mktemp("whole") / "place", tiny_model)
    ended = forked.run("train", str(place.recipe), folder=place.folder, environment=place.environment)
    assert is_as_never_killed(place, uninterrupted), ended.said
    return ended.cpu_seconds


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(NUM_KILLS // KILLS_OF_A_TEST))
def test_killed_at_any_moment_the_same_command_ends_as_if_never_killed(
    tmp_path, tiny_model, uninterrupted, forked: ForkedRuns, whole_seconds: float, outcome, seed
):
    """The moments are spread evenly over a run's processor time; one after its end is drawn anew."""
    draw, every = random.Random(seed), SAVE_EVERY[seed % len(SAVE_EVERY)]
    redone, broken = [], []
    while len(redone) < KILLS_OF_A_TEST:
        place = make_workplace(tmp_path / f"try-{len(redone)}", tiny_model)
        place.write_recipe(train={"save_every": every})
        moment, train = draw.uniform(0.0, whole_seconds), ("train", str(place.recipe))
        killed = forked.run(*train, folder=place.folder, environment=place.environment, die_after=moment)
        if killed.code == 0:
            remove(place)
            continue
        assert killed.code == -signal.SIGKILL, killed.said
        redone.append(redone_steps(place))
        ended = forked.run(*train, folder=place.folder, environment=place.environment)
        if ended.code != 0 or not is_as_never_killed(place, uninterrupted):
            broken.append((moment, ended.code, ended.said))
        remove(place)
    most = max(redone)
    outcome(
        fault="SIGKILL at a random moment of the run",
        group="kill",
        tries=len(redone),
        held=len(redone) - len(broken),
        lost="at most save_every steps" if most <= every else f"{most} steps with save_every {every}",
        note="from the first line of the command to its last file; SHA-256 and every step as without the kill",
    )
    assert not broken, broken[0]
    # a checkpoint is written while the steps to the next one are made
    assert most < 2 * every, redone


@pytest.mark.timeout(900)
def test_asked_to_stop_at_any_moment_a_run_saves_leaves_with_75_and_goes_on(
    tmp_path, tiny_model, uninterrupted, forked: ForkedRuns, whole_seconds: float, outcome
):
    draw = random.Random(11)
    codes, broken = [], []
    while len(codes) < NUM_STOPS:
        place = make_workplace(tmp_path / f"try-{len(codes)}", tiny_model)
        place.write_recipe(train={"save_every": 3})
        train, number = ("train", str(place.recipe)), (signal.SIGTERM, signal.SIGINT)[len(codes) % 2]
        moment = draw.uniform(0.0, whole_seconds)
        stopped = forked.run(
            *train, folder=place.folder, environment=place.environment, die_after=moment, die_of=number
        )  # fmt: skip
        if stopped.code == 0:
            remove(place)
            continue
        codes.append(stopped.code)
        # before the command line listens there is nothing to save
        is_saved = redone_steps(place) == 0 and (stopped.code == 75 or place.last_step() == 0)
        ended = forked.run(*train, folder=place.folder, environment=place.environment)
        if not is_saved or ended.code != 0 or not is_as_never_killed(place, uninterrupted):
            broken.append((moment, stopped.code, stopped.said, ended.said))
        remove(place)
    outcome(
        fault="SIGTERM or SIGINT at a random moment of the run", group="kill", tries=NUM_STOPS,
        held=NUM_STOPS - len(broken), lost="nothing",
        note=f"exit code 75 in {codes.count(75)} tries, the others before the command line listens",
    )  # fmt: skip
    assert not broken, broken[0]
    assert codes.count(75) > NUM_STOPS // 2, codes


@pytest.mark.timeout(900)
def test_killed_at_any_moment_the_command_line_itself_goes_on(tmp_path, tiny_model, uninterrupted, outcome):
    """As above, but for the start of the interpreter and its imports, which are killed too; by the clock."""
    draw = random.Random(10)
    whole = make_workplace(tmp_path / "whole", tiny_model)
    started = time.monotonic()
    whole.train()
    assert is_as_never_killed(whole, uninterrupted), "a forked run is not the one of the command line"
    seconds = time.monotonic() - started
    held = killed = 0
    for number in range(NUM_KILLS_OF_COMMANDS):
        place = make_workplace(tmp_path / f"try-{number}", tiny_model)
        process = place.start("train", str(place.recipe))
        try:
            process.communicate(timeout=draw.uniform(0.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert redone_steps(place) <= 1
        place.train()
        held += is_as_never_killed(place, uninterrupted)
    outcome(
        fault="SIGKILL at a random moment of the run", group="kill", tries=NUM_KILLS_OF_COMMANDS, held=held,
        note=f"{killed} more at the command line, imports included",
    )  # fmt: skip
    assert held == NUM_KILLS_OF_COMMANDS


def remove(place: Workplace) -> None:
    subprocess.run(["rm", "-rf", str(place.folder)], check=True)
