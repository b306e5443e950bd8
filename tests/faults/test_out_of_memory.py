"""Memory that runs out in a run of the command line: the run goes on, tells of it, and remembers what fits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import short_memory_cases
import short_memory_run
import torch
from rank_launcher import run_ranks
from tiny import distance
from workplace import TIMEOUT_SECONDS, Uninterrupted, Workplace

from whet.train.incidents import read_incidents

pytestmark = pytest.mark.timeout(1500)
SCRIPT = str(Path(short_memory_run.__file__))
SUPPORT = str(Path(SCRIPT).parent)
NEVER_MIND = ("step", "lr", "batch_hash", "num_taught", "num_tokens")


def train_short(place: Workplace, *arguments: str, expect: int = 0, **spec: Any) -> str:
    """`whet train` with memory as `spec` says."""
    code, said = place.run(json.dumps(spec), "train", str(place.recipe), *arguments, program=(SCRIPT,))
    assert code == expect, said
    return said


def assert_as_undisturbed(place: Workplace, uninterrupted: Uninterrupted, *, from_step: int) -> None:
    """Every step once, of the same samples; the same bits before the shortage, the same numbers after it."""
    found = place.trajectory()
    assert [step[0] for step in found] == [step[0] for step in uninterrupted.trajectory]
    assert [step[-1] for step in found] == [step[-1] for step in uninterrupted.trajectory], "other samples"
    for now, then in zip(found, uninterrupted.trajectory, strict=True):
        if now[0] < from_step:
            assert now == then
        assert now[1:4] == pytest.approx(then[1:4], rel=1e-4)


def test_a_run_that_runs_out_goes_on_and_tells_of_it(workplace, uninterrupted, outcome):
    said = train_short(workplace, most_samples=1, from_step=2, error="cuda")
    assert_as_undisturbed(workplace, uninterrupted, from_step=3)
    run = workplace.folder / "run"
    incidents = read_incidents(run)
    assert [(each.step, each.facts["cut"]["num_parts"]) for each in incidents] == [(3, 2), (3, 4)]
    first = "step 3: out of memory in a pass of 4 samples"
    assert first in said and "2 times out of memory, passes were cut smaller" in said
    told = [line["text"] for line in workplace.lines() if line["kind"] == "event"]
    assert [text.startswith("step 3: out of memory in a pass of") for text in told] == [True, True]
    report = (run / "report.html").read_text(encoding="utf-8")
    assert report.count(first) == 1 and "<td>out of memory</td>" in report
    outcome(fault="Out of memory in a pass", group="memory", tries=1, held=1, lost="the step's first attempt",
            note="the step begins anew with smaller passes, and so do all later ones")  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize("save_every", [1, 4])
def test_killed_after_a_shortage_a_run_ends_with_the_bits_of_one_that_was_not_killed(workplace, save_every, outcome):
    """Continued with all the memory in the world: what fits is known from the checkpoint, or from incidents.jsonl."""
    workplace.write_recipe(train={"save_every": save_every}, output=str(workplace.folder / "whole"))
    train_short(workplace, most_samples=2, from_step=4, point="forward")
    workplace.write_recipe(train={"save_every": save_every})
    spec = json.dumps({"most_samples": 2, "from_step": 4, "point": "forward"})
    process = workplace.start(spec, "train", str(workplace.recipe), program=(SCRIPT,))
    workplace.wait_until(lambda: workplace.last_step() >= 6, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    said = workplace.train("--resume", "auto")
    held = (
        workplace.trajectory() == workplace.trajectory("whole")
        and workplace.hashes() == workplace.hashes("whole")
        and "out of memory" not in said.replace("time out of memory, passes", "")
    )
    outcome(fault="SIGKILL after a shortage of memory", group="memory", tries=1, held=int(held),
            lost=f"at most {save_every} steps (save_every {save_every})")  # fmt: skip
    assert held, said


@pytest.mark.fault
def test_out_of_memory_in_an_update_ends_the_run_with_what_would_help_and_the_last_checkpoint_counts(
    workplace, uninterrupted, outcome
):
    said = train_short(workplace, update=4, expect=9)
    assert "out of memory in the update of step 4" in said and "GB predicted for this pass" in said
    assert said.count(" saves ") == 3 and "this run can go on with it" in said
    status = json.loads((workplace.folder / "run" / "ranks" / "rank-0.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 9)
    workplace.train()
    held = workplace.trajectory() == uninterrupted.trajectory and workplace.hashes() == uninterrupted.hashes
    outcome(fault="Out of memory in an update", group="memory", tries=1, held=int(held),
            lost="at most save_every steps",
            note="exit 9 with the estimate and three changes; continued, SHA-256 as undisturbed")  # fmt: skip
    assert held


@pytest.mark.fault
def test_out_of_options_the_run_ends_with_exit_9_and_nothing_half_done(workplace, uninterrupted, outcome):
    said = train_short(workplace, most_samples=0, from_step=5, expect=9)
    assert "step 6: out of memory in a pass of 1 sample" in said and "which cannot be cut" in said
    assert said.count(" saves ") == 3
    assert workplace.trajectory() == uninterrupted.trajectory[:5]
    workplace.train()
    found = workplace.trajectory()
    assert [step[-1] for step in found] == [step[-1] for step in uninterrupted.trajectory]
    outcome(fault="No memory for one sample", group="memory", tries=1, held=1, lost="at most save_every steps",
            note="exit 9 with the estimate and three changes")  # fmt: skip


def launch_ranks(place: Workplace, **spec: Any) -> list[tuple[int, str]]:
    before = dict(os.environ)
    os.environ.update(place.environment)
    try:
        ends = run_ranks(
            Path(SCRIPT), json.dumps(spec), "train", str(place.recipe), num_ranks=2, timeout_seconds=TIMEOUT_SECONDS
        )
    finally:
        os.environ.clear()
        os.environ.update(before)
    return [(end.exit_code, end.said) for end in ends]


@pytest.mark.fault
def test_of_two_ranks_one_runs_out_and_both_go_on(workplace, uninterrupted, outcome):
    workplace.write_recipe(batch={"global_size": 8, "micro_size": 2})
    ends = launch_ranks(workplace, rank=1, most_samples=1, from_step=3, point="forward")
    assert [code for code, _ in ends] == [0, 0], ends
    found = workplace.trajectory()
    assert [step[-1] for step in found] == [step[-1] for step in uninterrupted.trajectory]
    for now, then in zip(found, uninterrupted.trajectory, strict=True):
        assert now[1:4] == pytest.approx(then[1:4], rel=1e-4)
    (incident,) = read_incidents(workplace.folder / "run")
    # step 4 ends the epoch with two samples, one for each rank, for which there is room
    assert incident.facts["ranks"] == [1] and "on rank 1" in incident.text and incident.step == 5
    outcome(fault="Out of memory on one of two ranks", group="memory", tries=1, held=1,
            lost="the step's first attempt", note="all ranks cut their passes alike, none waits")  # fmt: skip


@pytest.mark.fault
def test_where_ranks_share_weights_a_shortage_ends_all_of_them_with_exit_9(workplace, outcome):
    workplace.write_recipe(parallel={"strategy": "fsdp", "timeout_seconds": 60}, batch={"micro_size": 2})
    ends = launch_ranks(workplace, rank=1, most_samples=0, from_step=2, point="forward")
    assert [code for code, _ in ends] == [9, 9], ends
    assert "in which the other ranks take part, so that it cannot be cut" in ends[1][1]
    assert "rank 1" in ends[0][1] and "out of memory" in ends[0][1]
    statuses = [json.loads((workplace.folder / f"run/ranks/rank-{n}.json").read_text()) for n in (0, 1)]
    assert [status["exit_code"] for status in statuses] == [9, 9]
    outcome(fault="Out of memory on one of two ranks that share weights (fsdp)", group="memory", tries=1, held=1,
            lost="at most save_every steps", note="exit 9 on all ranks: the pass holds collectives")  # fmt: skip


WIDE = """
import sys; from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig.from_pretrained(sys.argv[1])
config.intermediate_size = 4096
torch.manual_seed(0)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
"""


@pytest.mark.fault
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
def test_a_process_that_really_runs_out_goes_on(workplace, tmp_path, outcome):
    """The kernel refuses address space: of a pass of 16 samples it gives too little, of a smaller one enough."""
    import shutil

    wide = Path(shutil.copytree(workplace.model, tmp_path / "wide"))
    for bomb in (*wide.glob("*.bin"), *wide.glob("*.pt"), *wide.glob("*.pth")):
        bomb.unlink()
    subprocess.run([sys.executable, "-c", WIDE, str(wide)], check=True, env=workplace.environment)
    workplace.write_recipe(
        model={"id": str(wide)}, batch={"global_size": 16, "micro_size": 16}, output=str(tmp_path / "roomy")
    )
    workplace.train()
    workplace.write_recipe(model={"id": str(wide)}, batch={"global_size": 16, "micro_size": 16})
    said = train_short(workplace, limit_bytes=60_000_000)
    incidents = read_incidents(workplace.folder / "run")
    assert incidents, said
    held = [step[-1] for step in workplace.trajectory()] == [step[-1] for step in workplace.trajectory("roomy")]
    for now, then in zip(workplace.trajectory(), workplace.trajectory("roomy"), strict=True):
        held = held and now[1:4] == pytest.approx(then[1:4], rel=1e-4)
    outcome(fault="Address space refused by the kernel (RLIMIT_AS)", group="memory", tries=1, held=int(held),
            lost="the step's first attempt", note=incidents[0].facts["sizes"][0]["what"])  # fmt: skip
    assert held


@pytest.mark.fault
@pytest.mark.parametrize("name", short_memory_cases.CASES)
def test_shortages_at_random_points_of_random_steps_change_no_number(name, outcome):
    """What tests/numerics/test_out_of_memory.py tries twice."""
    case = short_memory_cases.CASES[name]
    if case.dtype == torch.float32:
        loss, update = 1e-6, 1e-3
    else:
        loss = update = 1e-10
    calm = short_memory_cases.result(case)
    tries, held = 0, 0
    for seed in range(short_memory_cases.NUM_DRAWN):
        found = short_memory_cases.result(case, planned=short_memory_cases.draw_planned(case, seed))
        tries += 1
        held += distance(found.moved, calm.moved) < update and all(
            now["batch_hash"] == then["batch_hash"] and now["loss"] == pytest.approx(then["loss"], rel=loss)
            for now, then in zip(found.steps, calm.steps, strict=True)
        )
    outcome(fault="Out of memory at random points of random steps", group="memory", tries=tries, held=held,
            note="losses and weights as without it: 1e-10 in float64")  # fmt: skip
    assert held == tries
