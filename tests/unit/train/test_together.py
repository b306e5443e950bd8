"""Ranks that verify a checkpoint together: each file is read by one of them, and what one finds counts for all."""

from __future__ import annotations

import pytest
import torch

from whet.checkpoint.save import save_checkpoint
from whet.errors import StorageError
from whet.parallel.env import Env
from whet.train import together
from whet.train.together import newest_together, open_together

NUM_RANKS = 3
FILES = ("a.safetensors", "b.safetensors", "c.safetensors", "d.json", "e.json")


@pytest.fixture
def save(tmp_path):
    def write(step):
        tensors = {name: {"w": torch.full((9,), float(step))} for name in FILES[:3]}
        documents = {name: {"step": step} for name in FILES[3:]}
        return save_checkpoint(tmp_path, step=step, tensors=tensors, documents=documents, files={})

    return write


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_read_by_one_rank(save, name):
    folder, found = save(1), []
    flip(folder / name)
    for rank in range(NUM_RANKS):
        try:
            open_together(folder, Env(rank=rank, world_size=NUM_RANKS))
        except StorageError as error:
            found.append(error.what)
    assert found == [f"{name} was changed or damaged (SHA-256 differs)"]


def test_what_another_rank_finds_wrong_is_wrong_here(save, tmp_path, monkeypatch):
    save(1)
    save(2)
    others = iter([["", "", "b.safetensors was changed or damaged (SHA-256 differs)"], ["", "", ""]])
    monkeypatch.setattr(together, "gather_texts", lambda text: next(others))
    checkpoint, notes = newest_together(tmp_path, Env(world_size=NUM_RANKS))
    assert checkpoint is not None and checkpoint.step == 1
    assert notes == ["ignored checkpoint-2: rank 2: b.safetensors was changed or damaged (SHA-256 differs)"]


def test_alone_the_newest_whole_one_is_found_and_what_is_none_is_said(save, tmp_path):
    save(1)
    flip(save(2) / "a.safetensors")
    checkpoint, notes = newest_together(tmp_path, Env())
    assert checkpoint is not None and (checkpoint.step, len(notes)) == (1, 1)
    with pytest.raises(StorageError, match="is not a checkpoint folder"):
        open_together(tmp_path / "nowhere", Env())
