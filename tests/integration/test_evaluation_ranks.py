"""`torchrun ... whet evaluate`: the ranks share the answers, and the files are those of one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_evaluations

# what this rank wrote, and where it dies: after so many of its rows (-1: never)
WATCHED = """
import os, signal, sys
from whet.cli.main import main
from whet.evaluation import answers
generate, left = answers.generate, int(sys.argv.pop(1))
def counting(model, prompts, *, on_finished, keys, **others):
    def finished(index, num_finished):
        global left
        on_finished(index, num_finished)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), getattr(signal, os.environ["DIES_BY"]))
    print("wrote", *keys, flush=True)
    return generate(model, prompts, on_finished=finished, keys=keys, **others)
answers.generate = counting
main()
"""
FILES = ("base.jsonl", "tuned.jsonl", "comparison.json")
NUM_ROWS = 22
WHOLE_MINUTE = 60


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A finished run; its evaluation set has an odd number of rows in the last portion of 16."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny_evaluations.write_run(folder, num_rows=NUM_ROWS)
    return folder / "run"


@pytest.fixture(scope="module")
def by_one_process(original, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    run = shutil.copytree(original, folder / "run")
    code, said, _ = evaluate(run, folder / "cache", world_size=1)
    assert code == [0], said
    return contents(run)


def evaluate(
    run: Path, cache: Path, *, world_size: int = 2, dies_at: tuple[int, ...] = (), dies_by: str = "SIGKILL"
) -> tuple[list[int], list[str], list[list[str]]]:
    """(exit codes, what each rank said, the rows that each rank wrote, in order)"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"WHET_CACHE": str(cache), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["DIES_BY"] = dies_by
    if world_size > 1:
        environment |= {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    limits = [*dies_at, *(-1 for _ in range(world_size - len(dies_at)))]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WATCHED, str(limit), "evaluate", str(run)],
            env=environment | ({"RANK": str(rank)} if world_size > 1 else {}),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank, limit in enumerate(limits)
    ]  # fmt: skip
    try:
        said = [ranks[0].communicate(timeout=150)[0]]
        if dies_by == "SIGSTOP":
            ranks[1].kill()
        said += [process.communicate(timeout=150)[0] for process in ranks[1:]]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
            process.stdout.close()
    wrote = [
        [key for line in text.splitlines() if line.startswith("wrote ") for key in line.split()[1:]] for text in said
    ]
    return [process.returncode for process in ranks], said, wrote


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / "evaluations" / "sums" / name).read_bytes() for name in FILES}


def test_two_ranks_write_the_files_of_one_and_no_row_twice(original, by_one_process, tmp_path):
    run = shutil.copytree(original, tmp_path / "run")
    codes, said, wrote = evaluate(run, tmp_path / "cache")
    assert codes == [0, 0], said
    assert contents(run) == by_one_process
    # base and tuned
    assert sorted(wrote[0] + wrote[1]) == sorted(2 * sorted({*wrote[0], *wrote[1]}))
    assert len(wrote[0]) == len(wrote[1]) == NUM_ROWS
    assert "report:" in said[0] and "tuned" not in said[1] and "report" not in said[1]
    seconds = json.loads((run / "evaluations" / "sums" / "base.summary.json").read_text())["seconds"]
    assert 0 < seconds < WHOLE_MINUTE


@pytest.mark.parametrize("dying_rank", [pytest.param(0, marks=pytest.mark.fault), 1])
def test_a_rank_that_dies_ends_the_other_at_once_and_the_same_command_goes_on(
    original, by_one_process, tmp_path, dying_rank
):
    run = shutil.copytree(original, tmp_path / "run")
    # in the second portion of 16 rows, of which each rank has 8
    dies_at = (10,) if dying_rank == 0 else (-1, 10)
    started = time.monotonic()
    codes, said, _ = evaluate(run, tmp_path / "cache", dies_at=dies_at)
    assert time.monotonic() - started < WHOLE_MINUTE
    assert codes[dying_rank] == -signal.SIGKILL
    assert codes[1 - dying_rank] == 7, said
    assert "the same command again" in said[1 - dying_rank]
    codes, said, wrote = evaluate(run, tmp_path / "cache")
    assert codes == [0, 0], said
    assert "16 rows before" in said[0]
    assert len(wrote[0]) + len(wrote[1]) == NUM_ROWS - 16 + NUM_ROWS
    assert contents(run) == by_one_process


def test_a_rank_that_is_stopped_ends_the_one_that_leads_at_the_timeout(original, tmp_path):
    run = shutil.copytree(original, tmp_path / "run")
    with (run / "recipe.yaml").open("a", encoding="utf-8") as recipe:
        recipe.write("\nparallel: {timeout_seconds: 4}\n")
    started = time.monotonic()
    codes, said, _ = evaluate(run, tmp_path / "cache", dies_at=(-1, 3), dies_by="SIGSTOP")
    assert codes[0] == 7, said
    assert time.monotonic() - started < WHOLE_MINUTE
    found = re.search(
        r"rank 1 \(host \S+, process \d+\) has not entered the exchange of texts; its last sign of life", said[0]
    )
    assert found and "in evaluation" in said[0] and "the same command again" in said[0], said


def test_training_under_torchrun_evaluates_on_both_ranks(workplace):
    rows = [{"question": f"Share {n}?", "answer": str(n)} for n in range(10)]
    held_out = workplace.folder / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    workplace.write_recipe(
        evaluate=[
            {"name": "held_out", "source": {"source": str(held_out), "split": "all"}, "max_new_tokens": 8,
             "batch_rows": 2}
        ],
        train={"max_steps": 2},
    )  # fmt: skip
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29655", "-m", "whet")
    process = workplace.start("train", str(workplace.recipe), program=launcher)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert said.count("held_out: base answered 10 rows") == said.count("held_out: tuned answered 10 rows") == 1
    assert (workplace.folder / "run" / "evaluations" / "held_out" / "comparison.json").is_file()
