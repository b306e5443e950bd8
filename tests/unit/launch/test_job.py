"""A job as data: what is told to every scheduler, and nothing that must stay secret."""

from __future__ import annotations

import shlex

import pytest

from whet.errors import RecipeError
from whet.launch.job import Job, check_job, node_command, scheduler_name, shell_line

JOB = Job(name="t", recipe="my recipes/r.yaml", workdir="/workspace", overrides=("a.b={c: $HOME}",), num_nodes=2)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("GSM8K, run 2", "gsm8k-run-2"),
        ("metamath_qa", "metamath-qa"),
        ("8b", "whet-8b"),
        ("---", "whet"),
        ("x" * 80, "x" * 52),
    ],
)
def test_names_are_what_hosts_and_containers_take(text, name):
    assert scheduler_name(text) == name


def test_a_value_is_refused_where_a_name_is_asked_for():
    with pytest.raises(RecipeError) as caught:
        check_job(Job(name="t", recipe="r", workdir="/workspace", env_names=("HF_TOKEN=hf_secret",)))
    assert "never a value" in str(caught.value)
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"mounts": ("/data",)}, {"mounts": ("/data:relative",)}, {"workdir": "relative"}])
def test_paths_that_nothing_could_mount_are_refused(wrong):
    with pytest.raises(RecipeError):
        check_job(Job(**{"name": "t", "recipe": "r", "workdir": "/workspace"} | wrong))


def test_every_machine_starts_its_ranks_and_knows_its_place():
    command = node_command(JOB, node_rank="$RANK_HERE", address="$HEAD", port="29511")
    assert command[:7] == ["python", "-m", "whet", "launch", "local", "my recipes/r.yaml", "a.b={c: $HOME}"]
    assert command[7:] == [
        "--nproc", "8", "--nnodes", "2", "--node-rank", "$RANK_HERE", "--master-addr", "$HEAD", "--master-port",
        "29511",
    ]  # fmt: skip


def test_one_machine_needs_no_place():
    command = node_command(Job(name="t", recipe="r.yaml", workdir="/workspace", gpus_per_node=0, max_restarts=3))
    assert command[5:] == ["r.yaml", "--nproc", "1", "--max-restarts", "3"]


def test_a_shell_reads_back_the_words_and_fills_in_nothing_but_variables():
    line = shell_line(node_command(JOB, node_rank="$RANK_HERE"))
    assert '"$RANK_HERE"' in line
    assert "'a.b={c: $HOME}'" in line
    assert shlex.split(line) == node_command(JOB, node_rank="$RANK_HERE")
