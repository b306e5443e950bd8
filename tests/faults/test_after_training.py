"""What fails after training costs no step: the weights are safe, and the same command does the failed part alone."""

from __future__ import annotations

import json
import signal

import pytest
from forked_runs import Ended, ForkedRuns
from questioned_runs import with_questions
from workplace import Uninterrupted, Workplace

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1500)]


def train(forked: ForkedRuns, place: Workplace, program: str = "") -> Ended:
    named = {"program": f"altered_programs:{program}"} if program else {}
    return forked.run("train", str(place.recipe), folder=place.folder, environment=place.environment, **named)


def log_of(place: Workplace) -> bytes:
    return (place.folder / "run" / "metrics.jsonl").read_bytes()


def says_what_next(ended: Ended, command: str) -> bool:
    return (
        "training is finished and its weights are in" in ended.said
        and "give the same command again (no step is trained again)" in ended.said
        and command in ended.said
    )


def test_a_bug_of_the_evaluation_costs_no_step_and_its_answers_are_kept(
    workplace: Workplace, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome
):
    run = with_questions(workplace, uninterrupted)
    before = log_of(workplace)
    failed = train(forked, workplace, "comparison_fails")
    is_told = failed.code == 1 and "a bug of the evaluation" in failed.said and says_what_next(failed, "whet evaluate")
    again = train(forked, workplace)
    is_redone = (
        again.code == 0
        and "was finished before" in again.said
        and "sums: tuned answered before" in again.said
        and (run / "evaluations" / "sums" / "comparison.json").is_file()
        and (run / "report.html").is_file()
    )
    held = is_told and is_redone and log_of(workplace) == before and workplace.hashes() == uninterrupted.hashes
    outcome(
        fault="the evaluation fails after training", group="evaluation", tries=1, held=int(held), lost="nothing",
        note="the error, where the weights are and the next command are printed; no step and no answer is made again",
    )  # fmt: skip
    assert is_told, failed.said
    assert is_redone, again.said
    assert held


def test_an_evaluation_killed_in_the_middle_goes_on_from_the_answered_rows(
    workplace: Workplace, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome
):
    run = with_questions(workplace, uninterrupted)
    before = log_of(workplace)
    killed = train(forked, workplace, "killed_after_nine_answers")
    again = train(forked, workplace)
    held = killed.code == -signal.SIGKILL and again.code == 0 and "rows before" in again.said
    held = held and log_of(workplace) == before and (run / "evaluations" / "sums" / "comparison.json").is_file()
    outcome(
        fault="the evaluation killed in its middle", group="evaluation", tries=1, held=int(held),
        lost="at most the rows that were being answered side by side",
        note="no step and no answered row is made again",
    )  # fmt: skip
    assert held, f"{killed.said}\n{again.said}"


@pytest.mark.parametrize("program", ["final_files_fail", "killed_at_final_files", "report_fails"])
def test_final_files_or_report_that_fail_are_written_by_the_same_command_without_a_step(
    workplace: Workplace, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome, program: str
):
    run = uninterrupted.copy_to(workplace)
    before = log_of(workplace)
    failed = train(forked, workplace, program)
    if program == "killed_at_final_files":
        is_told = failed.code == -signal.SIGKILL and (run / ".final.tmp").is_dir()
    elif program == "final_files_fail":
        is_told = failed.code == 5 and "no space left" in failed.said and not (run / ".final.tmp").exists()
    else:
        is_told = failed.code == 5 and "No space left" in failed.said and says_what_next(failed, "whet report")
    again = train(forked, workplace)
    steps = [line["step"] for line in workplace.steps()]
    held = (
        is_told
        and again.code == 0
        and log_of(workplace) == before
        and steps == list(range(1, 9))
        and workplace.hashes() == uninterrupted.hashes
        and (run / "report.html").is_file()
        and not list(run.glob(".*.tmp"))
    )
    outcome(
        fault="final files or report cannot be written, or the run is killed there", group="evaluation", tries=1,
        held=int(held), lost="nothing", note="the same command writes them; the log of steps stays byte for byte",
    )  # fmt: skip
    assert is_told, failed.said
    assert held, again.said


def test_a_killed_export_leaves_nothing_that_stays(
    workplace: Workplace, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome
):
    run = uninterrupted.copy_to(workplace, is_finished=True)
    target = workplace.folder / "out"
    arguments = ("export", str(run), "--to", "adapter", "--output", str(target))
    place = {"folder": workplace.folder, "environment": workplace.environment}
    killed = forked.run(*arguments, program="altered_programs:killed_at_export", **place)
    hidden = [path.name for path in workplace.folder.glob(".out.*.tmp")]
    again = forked.run(*arguments, **place)
    config = json.loads((target / "adapter_config.json").read_text()) if target.is_dir() else {}
    held = (
        killed.code == -signal.SIGKILL
        and len(hidden) == 1
        and again.code == 0
        and config.get("r") == 4
        and not list(workplace.folder.glob(".out.*.tmp"))
    )
    outcome(
        fault="an export killed before its proof", group="evaluation", tries=1, held=int(held), lost="the export",
        note="nothing under its name; the next one removes what the killed one left",
    )  # fmt: skip
    assert held, f"{hidden}\n{killed.said}\n{again.said}"
