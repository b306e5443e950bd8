"""`whet launch`: mistakes end the command before anything is started, and a dry run prints what would be submitted."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
import yaml

from whet.launch import local
from whet.launch.outcome import Outcome

RECIPE = """
name: Sums, 2
output: {folder}/run
data: {{train: [{{source: rows.jsonl}}]}}
train: {{device: cpu, max_steps: 2}}
model: {{dtype: float32}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    return str(path)


@pytest.fixture
def launched(monkeypatch):
    """What `launch_local` was asked for; nothing is started."""
    asked = {}

    def note(program, machines, **others):
        asked.update(others, program=program, machines=machines)
        return Outcome(exit_code=9, sentence="rank 0 ended the run: too large")

    monkeypatch.setattr(local, "launch_local", note)
    return asked


def test_the_ranks_run_whet_train_with_what_was_typed_and_their_code_is_the_command_s(call, recipe, launched, tmp_path):
    code, out, err = call("launch", "local", recipe, "optim.lr=1e-4", "--nproc", "2", "--no-evaluate")
    assert code == 9
    assert "2 ranks on the CPU" in out
    assert "rank 0 ended the run: too large (exit code 9)" in err
    assert launched["program"] == ["-m", "whet", "train", recipe, "optim.lr=1e-4", "--no-evaluate"]
    assert (launched["num_ranks"], launched["max_restarts"]) == (2, 0)
    assert launched["run_folder"] == tmp_path / "run"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optim.ls=1"], "optim.ls: unknown key"),
        (["--nnodes", "2"], "--master-addr"),
        (["--require-gpu"], "no GPU"),
    ],
)
def test_a_mistake_ends_the_command_before_a_rank_is_started(call, recipe, launched, arguments, words, monkeypatch):
    monkeypatch.setattr("whet.launch.machine.count_gpus", lambda: 0)
    code, _, err = call("launch", "local", recipe, *arguments)
    assert code == 2
    assert words in err
    assert not launched


def test_an_earlier_run_is_moved_away_once_and_not_by_every_restart(call, recipe, launched, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("of: another run", encoding="utf-8")
    code, out, _ = call("launch", "local", recipe, "--fresh", "--max-restarts", "3")
    assert code == 9
    assert "moved the earlier run to" in out
    assert (tmp_path / "run.old-1" / "recipe.yaml").is_file()
    assert not list((tmp_path / "run").glob("recipe.yaml"))
    assert "--fresh" not in launched["program"]


@pytest.mark.parametrize(("restarts", "expected"), [("0", (True, "run/checkpoint-3")), ("2", (False, None))])
def test_ranks_that_torchrun_started_again_continue(call, recipe, monkeypatch, restarts, expected):
    """As in `torchrun --max-restarts 3 -m whet train R --fresh`."""
    from whet.cli import train

    asked = []
    monkeypatch.setattr(train, "_train", lambda *_, fresh, resume, **__: asked.append((fresh, resume)))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    call("train", recipe, "--fresh", "--resume", "run/checkpoint-3")
    assert asked == [expected]


@pytest.mark.parametrize(
    "options",
    [
        ("--fresh", "--nnodes", "2", "--master-addr", "a"),
        ("--resume", "run/checkpoint-3", "--max-restarts", "1"),
    ],
)
def test_what_would_lose_steps_at_a_restart_is_refused(call, recipe, launched, options):
    code, _, err = call("launch", "local", recipe, *options)
    assert code == 2
    assert options[0] in err
    assert not launched


def test_where_no_scheduler_is_at_hand_the_command_prints_and_says_so(call, recipe, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setenv("HF_TOKEN", "hf_must_not_be_seen")
    commands = {
        "docker": ("--gpus-per-node", "2"),
        "kubernetes": ("--image", "x", "--claim", "c"),
        "skypilot": ("--image", "x", "--accelerator", "H100"),
    }
    for name, options in commands.items():
        code, out, err = call("launch", name, recipe, *options)
        assert code == 0, err
        assert "dry run: " in err and "is not on this machine" in err
        assert "sums-2" in out and "HF_TOKEN" in out
        assert "hf_must_not_be_seen" not in out + err
        if name != "docker":
            assert list(yaml.safe_load_all(out))


def test_runs_that_would_vanish_with_their_machine_are_refused(call, recipe):
    asked = ("launch", "skypilot", recipe, "--image", "x", "--accelerator", "H100", "--dry-run")
    code, _, err = call(*asked, "--spot")
    assert code == 2 and "--bucket" in err
    code, _, err = call(*asked, "--spot", "--bucket", "s3://b")
    assert code == 2 and "output=/runs/sums-2" in err
    code, out, _ = call(*asked, "--spot", "--bucket", "s3://b", "output=/runs/sums-2")
    assert code == 0 and "MOUNT_CACHED" in out


def test_a_container_runs_as_its_caller(call, recipe):
    code, out, _ = call("launch", "docker", recipe, "--dry-run", "--env", "")
    assert code == 0
    assert f"--user {os.getuid()}:{os.getgid()}" in out
    assert "HF_TOKEN" not in out


def test_without_nemo_run_slurm_says_what_to_install(call, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "nemo_run", None)
    code, _, err = call("launch", "slurm", recipe, "--account", "a", "--dry-run")
    assert code == 2
    assert "pip install 'whet[launch]'" in err


def test_a_time_that_slurm_does_not_know_is_refused_before_anything_is_sent(call, recipe):
    code, _, err = call("launch", "slurm", recipe, "--account", "a", "--time", "tomorrow")
    assert code == 2
    assert "--time" in err


def test_what_accelerate_says_otherwise_is_refused_before_anything_is_loaded(call, recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    code, _, err = call("train", recipe)
    assert code == 2
    assert "ACCELERATE_MIXED_PRECISION=bf16, model.dtype: float32" in err
