"""What was made once is made again, bit for bit, or whet says where it is not: `--resume --verify` and `reproduce`."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from forked_runs import ForkedRuns
from safetensors.torch import load_file, save_file
from workplace import Uninterrupted, Workplace, make_workplace, rows, write_rows

from whet.checkpoint.manifest import write_manifest

pytestmark = pytest.mark.fault

TOTAL_STEPS = 8


def killed_behind_a_checkpoint(place: Workplace, uninterrupted: Uninterrupted) -> Path:
    """The run as SIGKILL left it in the step after checkpoint-7, put together from a whole one."""
    run = uninterrupted.copy_to(place)
    shutil.rmtree(run / "checkpoint-8")
    return run


def flip(run: Path, file: str, ending: str) -> None:
    """One bit of a number in the newest checkpoint, whose manifest is made to fit."""
    import torch

    checkpoint = run / "checkpoint-7"
    tensors = load_file(checkpoint / file)
    name = next(each for each in sorted(tensors) if each.endswith(ending))
    tensors[name].view(torch.int32).view(-1)[3] ^= 1 << 22
    save_file(tensors, checkpoint / file, metadata={"format": "pt"})
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint, step=7)


def other_facts(run: Path) -> None:
    """As if the step had been made by two threads and come out otherwise in its last bit."""
    path = run / "witness.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    for line in lines:
        if line["kind"] == "session":
            line["facts"]["threads"] = 2
        else:
            line["grad_norm"] *= 1 + 1e-9
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")


DAMAGES = {
    "nothing": (lambda run: None, 0, "verified: step 8 made again from checkpoint-7 gave the same batch, rows, loss"),
    "a weight": (lambda run: flip(run, "adapter_model.safetensors", "lora_B.weight"), 8, "differs in the loss"),
    "a moment": (lambda run: flip(run, "optimizer.safetensors", "exp_avg"), 8, "differs in the weights"),
    "the machine": (other_facts, 8, "threads: 2 then, 1 now"),
}


@pytest.mark.timeout(1500)
def test_a_verified_resume_goes_on_only_where_the_step_comes_out_the_same(
    tmp_path: Path, tiny_model: Path, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome
):
    held = []
    for name, (damage, code, said) in DAMAGES.items():
        place = make_workplace(tmp_path / name.replace(" ", "-"), tiny_model)
        run = killed_behind_a_checkpoint(place, uninterrupted)
        damage(run)
        before = (run / "metrics.jsonl").read_bytes()
        ended = forked.run(
            "train", str(place.recipe), "--resume", "--verify", folder=place.folder, environment=place.environment
        )
        if code:
            # nothing was changed: the same command without --verify may still go on
            is_as_promised = (run / "metrics.jsonl").read_bytes() == before
        else:
            is_as_promised = place.hashes() == uninterrupted.hashes
        held.append(is_as_promised and ended.code == code and said in ended.said)
        assert held[-1], ended.said
    outcome(
        fault="--resume --verify: a flipped bit under a repaired manifest, or another machine",
        group="changes", tries=len(held), held=sum(held), lost="1 step made twice",
        note="exit 8 names what differs first and the likely cause; an honest run goes on to the same SHA-256",
    )  # fmt: skip
    assert all(held)


@pytest.mark.timeout(1500)
def test_two_ranks_verify_their_resume(tmp_path: Path, tiny_model: Path, outcome):
    place = make_workplace(tmp_path, tiny_model)
    place.write_recipe(train={"save_every": 2})
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29641", "-m", "whet")
    arguments = ("train", str(place.recipe))
    process = place.wait_until(lambda: place.last_step() >= 3, place.start(*arguments, program=torchrun))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    code, said = place.run(*arguments, "--resume", "--verify", program=torchrun)
    is_held = code == 0 and said.count("verified: step") == 1
    code, again = place.run("reproduce", "run", program=torchrun)
    is_reproduced = code == 0 and "reproduced: 8 of 8 steps" in again and "the same SHA-256" in again
    outcome(
        fault="two ranks stopped, continued with --resume --verify and reproduced", group="changes",
        tries=2, held=is_held + is_reproduced, note="the step and the whole run come out with the same bits",
    )  # fmt: skip
    assert is_held, said
    assert is_reproduced, again


@pytest.mark.timeout(1500)
def test_a_run_that_was_killed_and_continued_is_reproduced_to_the_last_bit(
    tmp_path: Path, tiny_model: Path, forked: ForkedRuns, outcome
):
    place = make_workplace(tmp_path, tiny_model)
    place.write_recipe(train={"save_every": 3})
    place.kill_at(5)
    ended = forked.run("train", str(place.recipe), folder=place.folder, environment=place.environment)
    assert ended.code == 0, ended.said
    whole = forked.run("reproduce", "run", folder=place.folder, environment=place.environment)
    first = forked.run(
        "reproduce", "run", "--steps", "2", "--output", "two", folder=place.folder, environment=place.environment
    )
    held = [
        whole.code == 0 and "reproduced: 8 of 8 steps" in whole.said and "the same SHA-256" in whole.said,
        first.code == 0 and "reproduced: 2 of 8 steps" in first.said and place.last_step("two") == 2,
    ]
    outcome(
        fault="a run that was killed and continued is made anew by `whet reproduce`", group="kill",
        tries=2, held=sum(held), note="every step and the final SHA-256 come out the same",
    )  # fmt: skip
    assert all(held), whole.said + first.said


@pytest.mark.timeout(1500)
def test_what_cannot_be_reproduced_is_told_with_the_step_or_the_file(
    tmp_path: Path, tiny_model: Path, uninterrupted: Uninterrupted, forked: ForkedRuns, outcome
):
    place = make_workplace(tmp_path, tiny_model)
    own_rows = place.folder / "own.jsonl"
    write_rows(own_rows, rows())
    place.write_recipe(data={"train": [{"source": str(own_rows)}]})
    ended = forked.run("train", str(place.recipe), folder=place.folder, environment=place.environment)
    assert ended.code == 0, ended.said
    run = place.folder / "run"

    def reproduced(name: str) -> tuple[int, str]:
        ended = forked.run(
            "reproduce", "run", "--output", name, folder=place.folder, environment=place.environment
        )  # fmt: skip
        return ended.code, ended.said

    def tampered(number: int, **fields: object) -> None:
        for file in ("metrics.jsonl", "witness.jsonl"):
            path = run / file
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
            lines = [line | fields if line["kind"] == "step" and line["step"] == number else line for line in lines]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    original = {file: (run / file).read_bytes() for file in ("metrics.jsonl", "witness.jsonl", "manifest.json")}
    held = []
    tampered(6, loss=place.steps()[5]["loss"] * (1 + 1e-12))
    code, said = reproduced("a")
    held.append(code == 8 and "step 6 differs in the loss" in said and place.last_step("a") == 6)
    (run / "metrics.jsonl").write_bytes(original["metrics.jsonl"])
    (run / "witness.jsonl").write_bytes(original["witness.jsonl"])
    tampered(2, batch_hash="0" * 16)
    code, said = reproduced("b")
    held.append(code == 8 and "step 2 differs in the batch" in said)
    for file, content in original.items():
        (run / file).write_bytes(content)
    manifest = json.loads(original["manifest.json"])
    manifest["sha256"]["adapter_model.safetensors"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    code, said = reproduced("c")
    held.append(code == 8 and "adapter_model.safetensors has another SHA-256" in said)
    (run / "manifest.json").write_bytes(original["manifest.json"])
    write_rows(own_rows, rows()[:-1])
    code, said = reproduced("d")
    held.append(code == 3 and f"data file {own_rows}" in said and not (place.folder / "d" / "metrics.jsonl").exists())
    code, said = reproduced("c")
    held.append(code == 5 and "is not empty" in said)
    outcome(
        fault="`whet reproduce` of a run whose records, rows or weights were changed", group="changes",
        tries=len(held), held=sum(held), note="the first step that differs, or the file, is named; exit 8 or 3",
    )  # fmt: skip
    assert all(held), (held, said)
