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

from whet.cli.recipe_file import load_any_recipe

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "configs" / "Llama-3.1" / "llama3.1_8b_gsm8k.yaml"
CONFIG = ROOT / "accelerate_config" / "accelerate_config.yaml"
ACCELERATE = ("-m", "accelerate.commands.accelerate_cli", "launch")


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


@pytest.mark.slow
def test_ranks_say_their_number_and_a_request_to_stop_ends_with_75(workplace):
    command = ("launch", "local", str(workplace.recipe), "--nproc", "2", "train.epochs=100")
    process = workplace.start(*command)
    workplace.wait_until(lambda: workplace.last_step() >= 2, process)
    process.send_signal(signal.SIGUSR1)  # as Slurm does ahead of the time limit
    said = finish(process, expect=75)
    assert "train.device is cpu: 2 ranks on the CPU" in said
    assert "[rank 0] training from step 0 of" in said
    assert "stopped as asked; the same command continues (exit code 75)" in said
    assert (workplace.folder / "run" / f"checkpoint-{workplace.last_step()}").is_dir()
    # the same folder with another recipe: refused before a rank is started
    said = finish(workplace.start(*command, "optim.lr=0.1"), expect=2)
    assert "[rank" not in said and "optim.lr" in said


@pytest.mark.slow
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


@pytest.mark.slow
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


SCRIPTS = ("train_llama3.1_gsm8k_8gpu.sh", "train_llama3.1_metamath_8gpu.sh")
ARGUMENTS = """#!/usr/bin/env bash
printf '%s\\0' "$@"
"""


def script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The guide's script; a question would end with an error, because there is nobody to answer it."""
    command = ["bash", str(ROOT / "examples" / name), *arguments]
    return subprocess.run(
        command, env=os.environ | variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_guide_s_scripts_start_its_own_files(tmp_path, name):
    (tmp_path / "python").write_text(ARGUMENTS, encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    config = f"configs/Llama-3.1/llama3.1_8b_{name.split('_')[2]}.yaml"
    words = script(name, "optim.lr=1e-5", PYTHON=str(tmp_path / "python")).stdout.split("\0")[:-1]
    assert words == ["-m", "whet", "launch", "local", config, "--require-gpu", "optim.lr=1e-5"]
    on_cpu = script(name, "optim.lr=1e-5", PYTHON=str(tmp_path / "python"), WHET_ON_CPU="2").stdout.split("\0")[:-1]
    assert on_cpu[:7] == ["-m", "whet", "launch", "local", config, "--nproc", "2"]
    # what is changed for a try is still a recipe, and what is typed wins
    recipe = load_any_recipe(ROOT / config, on_cpu[7:], lambda _: None)
    assert (recipe.train.max_steps, recipe.train.device, recipe.optim.lr) == (2, "cpu", 1e-5)
    assert not recipe.evaluate and recipe.adapter.init == "pissa"


def test_without_a_gpu_the_guide_s_script_ends_with_a_sentence(tmp_path):
    done = script(SCRIPTS[0], f"output={tmp_path / 'run'}", PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "shows no GPU" in done.stderr
