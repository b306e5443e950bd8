"""Two real ranks, started by whet and by accelerate as the guide types it; exit codes are whet's own.

Each launch costs many seconds of imports, so each of them shows several things.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "configs" / "Llama-3.1" / "llama3.1_8b_gsm8k.yaml"
CONFIG = ROOT / "accelerate_config" / "accelerate_config.yaml"
ACCELERATE = ("-m", "accelerate.commands.accelerate_cli", "launch")
pytestmark = pytest.mark.slow


def tiny(workplace) -> list[str]:
    """The guide's 8B file, made small enough for a test."""
    return [
        f"model.id={workplace.model}", "model.dtype=auto", "adapter.init=default", "callbacks=[]", "tracking=[]",
        f"data.train.0.source={workplace.rows}", "data.validation=[]", "evaluate=[]", "train.device=cpu",
        "train.max_steps=2", "train.best_metric=eval/loss", "train.final=last", f"output={workplace.folder / 'run'}",
    ]  # fmt: skip


def finish(process: subprocess.Popen[str], expect: int) -> str:
    said, _ = process.communicate(timeout=200)
    assert process.returncode == expect, said
    return said


def plan_of(workplace) -> tuple[int, int]:
    plan = json.loads((workplace.folder / "run" / "run_plan.json").read_text(encoding="utf-8"))
    return plan["world_size"], plan["global_batch"]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_killed_rank_is_started_again_and_a_request_to_stop_ends_with_75(workplace):
    command = ("launch", "local", str(workplace.recipe), "--nproc", "2", "--max-restarts", "1", "train.epochs=100")
    process = workplace.start(*command)
    workplace.wait_until(lambda: workplace.last_step() >= 3, process)
    rank_1 = json.loads((workplace.folder / "run" / "ranks" / "rank-1.json").read_text(encoding="utf-8"))
    killed_at = workplace.last_step()
    os.kill(rank_1["process"], signal.SIGKILL)
    workplace.wait_until(lambda: workplace.last_step() > killed_at + 2, process)
    process.send_signal(signal.SIGUSR1)  # as Slurm does ahead of the time limit
    said = finish(process, expect=75)
    assert "train.device is cpu: 2 ranks on the CPU" in said
    assert "[rank 0] training from step 0 of" in said
    assert said.count("[rank 0] continuing after step") == 1
    assert "the same command continues (exit code 75)" in said
    # the same folder with another recipe: refused before a rank is started
    said = finish(workplace.start(*command, "optim.lr=0.1"), expect=2)
    assert "[rank" not in said and "optim.lr" in said


def test_an_error_of_one_rank_is_the_exit_code_on_both_machines(workplace):
    place = ("--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", free_port(), "--nproc", "1")
    error = ("data.over_length=error", "data.max_length=8")
    machines = [
        workplace.start("launch", "local", str(workplace.recipe), *place, "--node-rank", str(rank), *error)
        for rank in range(2)
    ]
    for machine in machines:
        said = finish(machine, expect=3)
        assert "ended the run: " in said and "(exit code 3)" in said
        assert "ChildFailedError" not in said  # torchrun's page on the same thing


def test_the_guide_s_two_machines_train_one_run_with_accelerate(workplace):
    """The guide's two commands, one process each; both machines are this one."""
    port = free_port()
    machines = [
        workplace.start(
            "--config_file", str(CONFIG), "--num_processes", "2", "--num_machines", "2", "--machine_rank", str(rank),
            "--main_process_ip", "127.0.0.1", "--main_process_port", port, "--mixed_precision", "bf16",
            str(ROOT / "train.py"), "--config", str(GUIDE), *tiny(workplace), program=ACCELERATE,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [finish(machine, expect=0) for machine in machines]
    assert said[0].count("read as lora-ns") == 1
    assert "2 steps, finished" in said[0] and "2 steps" not in said[1]
    assert plan_of(workplace) == (2, 64)


def test_the_guide_s_script_tries_the_cpu_where_that_is_asked_for_and_ends_where_not(workplace):
    script = ["bash", str(ROOT / "examples" / "train_llama3.1_gsm8k_8gpu.sh"), *tiny(workplace)]

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = workplace.environment | {"PYTHON": sys.executable} | variables
        # a question would end with an error: there is nobody to answer it
        return subprocess.run(
            script, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False
        )

    done = run(WHET_ON_CPU="2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[rank 0]" in done.stdout
    assert plan_of(workplace) == (2, 8)
    if not Path("/dev/nvidiactl").exists():
        done = run()
        assert done.returncode == 2
        assert "no GPU" in done.stderr
