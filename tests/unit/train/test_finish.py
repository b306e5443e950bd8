"""The end of a run: its final weights, and what summary.json says of all its sessions and where the time went."""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import LORA, build_training, make_plan, make_samples, tiny_llama
from transformers import LlamaForCausalLM

from whet.checkpoint.blocks import Block
from whet.checkpoint.load import Checkpoint
from whet.checkpoint.sharded import Part, make_whole, write_part
from whet.errors import NonFiniteError, StorageError
from whet.train import finish
from whet.train.finish import write_summary
from whet.types import PARTS_OF_STEP

pytestmark = pytest.mark.slow

SAMPLES = make_samples([7, 4, 9, 5])
OLD = {"kind": "step", "step": 1, "loss": 2.5, "seconds": 2.0, "num_tokens": 100}
"""as versions before there was a split wrote it"""
NEW = {
    "kind": "step", "step": 2, "loss": 2.0, "seconds": 8.0, "num_tokens": 300, "data_seconds": 4.0,
    "forward_seconds": 1.0, "backward_seconds": 2.0, "optimizer_seconds": 0.25, "communication_seconds": 0.25,
    "save_seconds": 0.25,
}  # fmt: skip
EVALUATION = {"kind": "eval", "step": 2, "loss": 2.0, "seconds": 1.0}
EVENT = {"kind": "event", "step": 2, "text": "resumed"}


@pytest.fixture
def training():
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=2)
    made = build_training(tiny_llama(torch.float32), SAMPLES, plan, adapter=LORA)
    return dataclasses.replace(made, startup_seconds={"imports": 2.0, "first step": 1.0})


def summary_of(folder, training, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_summary(folder, training, status="finished", steps=2, final_step=2)
    return json.loads((folder / "summary.json").read_text())


def test_the_parts_of_all_lines_are_added_up_and_the_worst_one_is_named(tmp_path, training):
    summary = summary_of(tmp_path, training, [OLD, EVENT, NEW, EVALUATION])
    assert (summary["seconds"], summary["tokens"], summary["tokens_per_second"]) == (10.0, 400, 40.0)
    assert summary["last_train_loss"] == 2.0
    assert summary["seconds_by_part"] == {
        "data": 4.0, "forward": 1.0, "backward": 2.0, "optimizer": 0.25, "communication": 0.25, "save": 0.25,
        "other": 2.25, "evaluation": 1.0,
    }  # fmt: skip
    assert summary["bottleneck"].startswith("36% of the time waits for rows: ")
    assert summary["sentences"][-1] == summary["bottleneck"]
    assert summary["startup_seconds"] == {"imports": 2.0, "first step": 1.0}


def test_the_wait_for_the_last_checkpoint_is_in_no_line_and_counts(tmp_path, training):
    with training.laps("save"):
        time.sleep(0.05)
    parts = summary_of(tmp_path, training, [NEW])["seconds_by_part"]
    assert 0.3 <= parts["save"] < 0.5
    assert sum(parts.values()) == pytest.approx(8.0 + parts["save"] - 0.25)
    assert set(parts) == {*PARTS_OF_STEP, "other", "evaluation"}


def test_a_run_without_a_step_has_a_summary_too(tmp_path, training):
    summary = summary_of(tmp_path, training, [])
    assert summary["tokens_per_second"] is None and summary["last_train_loss"] is None
    assert summary["bottleneck"] == "" and summary["sentences"] == []


def loaded_of(training):
    return SimpleNamespace(model=training.model, compute_dtype=torch.float32, stop_ids=(2,))


@pytest.fixture
def full():
    """A full fine-tuning, and a checkpoint of it that two ranks wrote: rows of every tensor, halves each."""
    plan = make_plan(len(SAMPLES), micro_batch=1, global_batch=2)
    return build_training(tiny_llama(torch.float32), SAMPLES, plan)


def save_in_halves(run_folder, tensors, *, step=4):
    reports = []
    for rank in range(2):
        blocks = {}
        for name, tensor in tensors.items():
            half = len(tensor) // 2
            rows = tensor.detach()[half:] if rank else tensor.detach()[:half]
            offsets = (half * rank, *(0 for _ in tensor.shape[1:]))
            blocks[name] = Block(tensor=rows, offsets=offsets, shape=tuple(tensor.shape))
        part = Part(
            rank=rank, num_ranks=2, blocks={"weights": blocks, "optimizer": {}},
            shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()}, tensors={}, documents={}, files={},
        )  # fmt: skip
        reports.append(write_part(run_folder, step=step, part=part))
    return Checkpoint(folder=make_whole(run_folder, step=step, reports=reports), step=step)


@pytest.mark.parametrize("max_bytes", [10**9, 60_000])
def test_a_model_out_of_blocks_has_the_bytes_of_one_out_of_memory(tmp_path, full, monkeypatch, max_bytes):
    monkeypatch.setattr(finish, "MAX_FILE_BYTES", max_bytes)
    written = []
    for name in ("memory", "blocks"):
        folder = tmp_path / name
        folder.mkdir()
        saved = save_in_halves(folder, full.trainables.named) if name == "blocks" else None
        finish.write_final(folder, full, loaded_of(full), {"tokenizer.json": b"{}"}, saved)
        written.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert written[0] == written[1]
    assert ("model.safetensors" in written[0]) == (max_bytes > 60_000)
    files = [content for name, content in written[0].items() if name.endswith(".safetensors")]
    assert len(files) == 1 or max(map(len, files)) < max_bytes + 130_000  # the embedding alone is larger
    reread = dict(LlamaForCausalLM.from_pretrained(tmp_path / "blocks").named_parameters())
    assert all(torch.equal(reread[name], tensor) for name, tensor in full.trainables.named.items())


def test_an_earlier_end_of_the_run_leaves_no_weights_beside_the_new_ones(tmp_path, full, monkeypatch):
    finish.write_final(tmp_path, full, loaded_of(full), {})
    monkeypatch.setattr(finish, "MAX_FILE_BYTES", 60_000)
    finish.write_final(tmp_path, full, loaded_of(full), {})
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "model.safetensors.index.json").exists()


def test_what_is_not_finite_in_a_block_leaves_no_final_model(tmp_path, full):
    tensors = {name: tensor.detach().clone() for name, tensor in full.trainables.named.items()}
    list(tensors.values())[-1][-1] = float("nan")
    saved = save_in_halves(tmp_path, tensors)
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        finish.write_final(tmp_path, full, loaded_of(full), {}, saved)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of peak memory")
def test_a_model_passes_through_with_memory_for_one_tensor(tmp_path):
    """96 tensors of 4 MB in two blocks each: at the peak, one whole, its block, and what is being written.

    What a process that has run other tests maps meanwhile comes on top: an eighth of the model is allowed.
    """
    shape = (1024, 1024)
    saved = save_in_halves(tmp_path, {f"layers.{n}.weight": torch.full(shape, float(n)) for n in range(96)})
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    finish.write_model(tmp_path, saved.folder, torch.bfloat16)
    assert resident_bytes("VmHWM") - before < 96 * 4e6 / 8
    assert (tmp_path / "model.safetensors").stat().st_size > 96 * 2e6


def resident_bytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


class Refused:
    """A tokenizer whose files meet a full disk, which tokenizers tells as a bare Exception; or a bug of its own."""

    def __init__(self, text: str) -> None:
        self.text = text

    def save_pretrained(self, folder: str) -> None:
        raise Exception(self.text)


def test_a_tokenizer_without_room_for_its_files_is_an_error_of_the_disk_and_its_own_bugs_are_not(tmp_path):
    with pytest.raises(StorageError, match="No space left on device"):
        finish.tokenizer_files(Refused("No space left on device (os error 28)"), tmp_path)
    with pytest.raises(Exception, match="no such token") as caught:
        finish.tokenizer_files(Refused("no such token"), tmp_path)
    assert not isinstance(caught.value, StorageError)
    assert not list(tmp_path.iterdir())
