"""Dry runs print what the golden files hold, and the golden files are what schedulers understand."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import launch_goldens
import pytest
import yaml

GOLDENS = launch_goldens.FOLDER


def read(name: str) -> str:
    return (GOLDENS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", launch_goldens.PLAIN)
def test_a_dry_run_prints_its_golden_file(name):
    assert launch_goldens.PLAIN[name]() == read(name)


@pytest.mark.parametrize("name", launch_goldens.BY_NEMO)
def test_nemo_run_s_dry_run_prints_its_golden_file(name):
    if find_spec("nemo_run") is None:
        pytest.skip("nemo_run is not installed")
    command = [sys.executable, launch_goldens.__file__, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == read(name)


def test_every_golden_file_is_some_dry_run_s():
    assert {path.name for path in GOLDENS.iterdir()} == {*launch_goldens.PLAIN, *launch_goldens.BY_NEMO}


@pytest.mark.parametrize("name", [*launch_goldens.PLAIN, *launch_goldens.BY_NEMO])
def test_no_file_holds_a_value_of_a_secret(name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_must_not_be_seen")
    texts = [read(name), *([launch_goldens.PLAIN[name]()] if name in launch_goldens.PLAIN else [])]
    assert all("hf_must_not_be_seen" not in text for text in texts)
    assert "HF_TOKEN=" not in read(name)


@pytest.mark.parametrize("name", launch_goldens.BY_NEMO)
def test_the_batch_script_is_a_script(name, tmp_path):
    """bash reads it without running it."""
    done = subprocess.run(["bash", "-n", str(GOLDENS / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_batch_script_says_what_an_operator_looks_for():
    lines = read("slurm_two_nodes.txt").splitlines()
    for line in (
        "#SBATCH --account=team_llm", "#SBATCH --partition=batch", "#SBATCH --time=12:00:00", "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=8", "#SBATCH --signal=USR1@300", "#SBATCH --requeue",
        "#SBATCH --exclusive",
    ):  # fmt: skip
        assert line in lines
    (srun,) = [line for line in lines if line.startswith("srun --output")]
    for words in (
        "--container-image /lustre/team/images/whet.sqsh", "--container-env HF_TOKEN",
        "/lustre/team/whet:/lustre/team/whet,/lustre/models:/models,",
    ):  # fmt: skip
        assert words in srun
    # the last of each option is the one that srun takes
    assert srun.rindex("--kill-on-bad-exit=0") > srun.rindex("--kill-on-bad-exit=1")
    (command,) = [line for line in lines if "whet launch local" in line]
    assert '--node-rank "$SLURM_NODEID" --master-addr "$WHET_HEAD_NODE" --master-port "$WHET_PORT"' in command


@pytest.mark.parametrize(("code", "queued"), [(75, True), (0, False), (2, False), (1, False), (143, False)])
def test_only_an_interrupted_job_goes_back_into_the_queue(tmp_path, code, queued):
    """whet's part of the batch script, run by bash with a scontrol that takes notes."""
    from whet.launch.slurm import SETUP

    (tmp_path / "scontrol").write_text(f'#!/usr/bin/env bash\necho "$@" >> {tmp_path}/called\n', encoding="utf-8")
    (tmp_path / "scontrol").chmod(0o755)
    script = f'head_node_ip="10.0.0.7 fe80::1"\n{SETUP}\necho "$WHET_HEAD_NODE $WHET_PORT"\nexit {code}\n'
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "45678"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout == "10.0.0.7 25678\n"
    called = (tmp_path / "called").read_text().split() if (tmp_path / "called").exists() else []
    assert called == (["requeue", "45678"] if queued else [])


@pytest.mark.parametrize("code", [75, 2, 0])
@pytest.mark.parametrize("name", launch_goldens.BY_NEMO)
def test_the_whole_batch_script_ends_with_the_code_of_its_nodes(tmp_path, name, code):
    """The golden script, run by bash with a Slurm that takes notes: its `srun` ends with `code`."""
    programs = {
        "scontrol": f'echo "$@" >> {tmp_path}/called; if [ "$1" = show ]; then echo node1; echo node2; fi',
        "srun": f'case "$*" in *hostname*) echo 10.0.0.7;; *) echo "$@" > {tmp_path}/started; exit {code};; esac',
    }
    for program, text in programs.items():
        (tmp_path / program).write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
        (tmp_path / program).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "NEMORUN_HOME": str(tmp_path), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(GOLDENS / name)], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == code, done.stderr
    assert "scripts/train.sh" in (tmp_path / "started").read_text()
    asked = (tmp_path / "called").read_text().splitlines()
    assert asked == ["show hostnames node[1-2]", *(["requeue 7"] if code == 75 else [])]


def test_the_pods_find_each_other_and_only_what_was_interrupted_starts_again():
    service, job = yaml.safe_load_all(read("kubernetes_two_nodes.yaml"))
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (2, 2)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = container["command"]
    assert words[words.index("--master-addr") + 1] == "metamath-qa-0.metamath-qa"
    assert words[words.index("--node-rank") + 1] == "$(JOB_COMPLETION_INDEX)"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    rules = {tuple(rule.get("onExitCodes", {}).get("values", ())): rule["action"] for rule in
             job["spec"]["podFailurePolicy"]["rules"]}  # fmt: skip
    assert rules[(75,)] == "Ignore"
    assert [action for codes, action in rules.items() if 2 in codes] == ["FailJob"]
    assert all(1 not in codes and 7 not in codes for codes in rules)


def test_a_pod_cannot_become_root():
    for document in yaml.safe_load_all(read("kubernetes_two_nodes.yaml")):
        if document["kind"] != "Job":
            continue
        pod = document["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_sky_task_recovers_what_was_interrupted_and_keeps_runs_in_the_bucket():
    task = yaml.safe_load(read("skypilot_two_nodes.yaml"))
    assert task["num_nodes"] == 2
    assert task["resources"]["accelerators"] == "H100:8"
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}
    assert task["secrets"] == {"HF_TOKEN": None}
    assert task["file_mounts"] == {"/runs": {"source": "s3://team-whet-runs", "mode": "MOUNT_CACHED"}}
    assert "--secret HF_TOKEN" in read("skypilot_command.txt")


def test_bash_gives_every_sky_machine_its_place(tmp_path):
    """The task's script, with a `python` that prints its arguments."""
    (tmp_path / "python").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.9",
    }  # fmt: skip
    script = yaml.safe_load(read("skypilot_two_nodes.yaml"))["run"]
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[words.index("--node-rank") + 1] == "1"
    assert words[words.index("--master-addr") + 1] == "10.0.0.4"


def test_the_container_writes_as_the_user_who_typed_it_and_gets_the_token_by_name():
    text = read("docker_four_gpus.txt")
    for words in (
        "--user 1001:1001",
        "--env HF_TOKEN",
        "--gpus 4",
        "--ipc host",
        "--volume /home/ada/whet:/home/ada/whet",
    ):
        assert words in text
    assert "--gpus" not in read("docker_cpu.txt")
