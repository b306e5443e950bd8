"""A checkpoint verifies whole or is refused with the file and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from whet.checkpoint.load import newest_checkpoint, open_checkpoint
from whet.checkpoint.manifest import verify
from whet.errors import StorageError


def test_a_whole_checkpoint_verifies_and_gives_back_what_was_saved(save):
    checkpoint = open_checkpoint(save(3))
    assert checkpoint.step == 3
    assert checkpoint.document("state.json") == {"step": 3}
    assert checkpoint.tensors("model.safetensors")["w"].tolist() == [3.0] * 64


def test_the_manifest_holds_plain_sha256_sums_and_sizes(save):
    folder = save(3)
    document = json.loads((folder / "manifest.json").read_text())
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}
    assert set(files) == {"model.safetensors", "state.json", "recipe.yaml", "tokenizer.json"}
    assert document["sha256"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert document["bytes"] == {name: len(content) for name, content in files.items()}


def flip_last_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def zero_second_half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def replace_by_link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "bit flipped": (flip_last_bit, "SHA-256 differs"),
    "half zeroed": (zero_second_half, "SHA-256 differs"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 1), "bytes, not"),
    "emptied": (lambda path: os.truncate(path, 0), "has 0 bytes, not"),
    "lengthened": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "bytes, not"),
    "missing": (lambda path: path.unlink(), "model.safetensors is missing"),
    "a link": (replace_by_link, "is not a plain file"),
    "a folder": (replace_by_folder, "is not a plain file"),
    "a stranger beside it": (lambda path: (path.parent / "optimizer.pt").touch(), "optimizer.pt does not belong"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_ignored_with_the_reason_and_the_older_one_is_found(save, tmp_path, damage):
    save(1)
    harm, reason = DAMAGES[damage]
    harm(save(2) / "model.safetensors")
    checkpoint, notes = newest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    assert len(notes) == 1 and notes[0].startswith("ignored checkpoint-2: ") and reason in notes[0]


MANIFESTS = {
    "torn": '{"format_version": 1, "st',
    "not an object": "[]",
    "a sum that is no object": '{"format_version": 1, "step": 1, "sha256": [], "bytes": {}}',
    "no step": '{"format_version": 1, "sha256": {}, "bytes": {}}',
    "not text": "\x00",
}


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_cannot_be_read_is_a_storage_error(save, content):
    folder = save(1)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(StorageError, match="cannot be read"):
        verify(folder)


def test_without_a_manifest_a_folder_is_no_checkpoint(save):
    folder = save(1)
    (folder / "manifest.json").unlink()
    with pytest.raises(StorageError, match="not finished"):
        verify(folder)


def test_a_newer_format_is_refused_and_says_what_helps(save):
    folder = save(1)
    document = json.loads((folder / "manifest.json").read_text()) | {"format_version": 2}
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(StorageError, match="this whet reads 1") as caught:
        verify(folder)
    assert caught.value.mend


def test_the_newest_is_decided_by_step_and_never_by_file_time(save, tmp_path):
    for step in (9, 10, 2):
        os.utime(save(step), (step, 10**9 - step))
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-11").symlink_to(tmp_path / "checkpoint-2")
    checkpoint, notes = newest_checkpoint(tmp_path)
    assert checkpoint is not None and (checkpoint.step, notes) == (10, [])
