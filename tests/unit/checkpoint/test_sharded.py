"""A checkpoint of several ranks: every number once, any cut out of any other, torch's own format; whole or ignored.

The ranks are played one after the other by this process: none of what they do waits for another.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import DefaultLoadPlanner, HuggingFaceStorageReader

from whet.checkpoint import sharded
from whet.checkpoint.blocks import Block
from whet.checkpoint.load import newest_checkpoint, open_checkpoint
from whet.checkpoint.names import BEST, weight_shards
from whet.checkpoint.reshard import load_into
from whet.checkpoint.retention import prune, remove_leftovers
from whet.checkpoint.save import copy_checkpoint
from whet.checkpoint.sharded import Part, make_whole, refuse_failed, write_part
from whet.errors import StorageError
from whet.models.weight_files import list_tensors, read_tensor

NUM_RANKS = 4
SHAPES = {"norm": (5,), "matrix": (10, 6), "deep": (4, 3, 8), "narrow": (2, 7)}


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def cut(tensor: torch.Tensor, borders: list[int], dim: int) -> list[Block]:
    """The tensor between each two of `borders` along `dim`."""
    blocks = []
    for begin, end in pairwise(borders):
        offsets = [0] * tensor.ndim
        offsets[dim] = begin
        part = tensor.narrow(dim, begin, end - begin).clone()
        blocks.append(Block(tensor=part, offsets=tuple(offsets), shape=tuple(tensor.shape)))
    return blocks


def rows_of_ranks(tensors: dict[str, torch.Tensor]) -> list[dict[str, Block]]:
    """As FSDP cuts: rows, as many for each rank as fit evenly, the last ranks with fewer or none."""
    of_rank: list[dict[str, Block]] = [{} for _ in range(NUM_RANKS)]
    for name, tensor in tensors.items():
        size = -(-len(tensor) // NUM_RANKS)
        borders = [min(rank * size, len(tensor)) for rank in range(NUM_RANKS + 1)]
        for rank, block in enumerate(cut(tensor, borders, 0)):
            if block.tensor.numel():
                of_rank[rank][name] = block
    return of_rank


def part_of(rank: int, weights: dict[str, Block], moments: dict[str, Block]) -> Part:
    return Part(
        rank=rank,
        num_ranks=NUM_RANKS,
        blocks={"weights": weights, "optimizer": moments},
        shapes={**SHAPES, **{f"{name}.exp_avg": shape for name, shape in SHAPES.items()}},
        tensors={"optimizer.safetensors": {"norm.step": torch.tensor(3.0)}} if rank == 0 else {},
        documents={"state.json": {"step": 3}},
        files={"tokenizer.json": b"{}"},
    )


def write_all(folder: Path, step: int) -> list[str]:
    """What each rank reports after it wrote its part."""
    weights = rows_of_ranks(tensors_of(step))
    moments = rows_of_ranks({f"{name}.exp_avg": -2 * tensor for name, tensor in tensors_of(step).items()})
    return [
        write_part(folder, step=step, part=part_of(rank, weights[rank], moments[rank])) for rank in range(NUM_RANKS)
    ]


@pytest.fixture
def save_together(tmp_path: Path) -> Callable[[int], Path]:
    return lambda step: make_whole(tmp_path, step=step, reports=write_all(tmp_path, step))


def test_a_checkpoint_of_four_ranks_verifies_and_holds_safetensors_and_text_alone(save_together):
    folder = save_together(3)
    assert open_checkpoint(folder).step == 3
    shards = [f"{kind}-shard-{n:05}-of-00004.safetensors" for kind in ("optimizer", "weights") for n in (1, 2, 3, 4)]
    texts = ["manifest.json", "shards.json", "state.json", "tokenizer.json"]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*shards, "optimizer.safetensors", *texts])
    for path in folder.glob("*.safetensors"):
        load_file(path)
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


CUTS = {
    "whole": lambda t: [0, t],
    "two": lambda t: [0, t // 2, t],
    "three, uneven": lambda t: [0, 1, (t + 1) // 2, t],
    "one each": lambda t: list(range(t + 1)),
}


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("name", CUTS)
def test_any_cut_is_read_out_of_the_blocks_of_four_ranks(save_together, name, dim):
    folder, saved = save_together(3), tensors_of(3)
    for tensor_name, whole in saved.items():
        for block in cut(whole, CUTS[name](whole.shape[dim]), dim % whole.ndim):
            expected = block.tensor.clone()
            block.tensor.fill_(torch.nan)
            load_into(folder, {tensor_name: block})
            assert torch.equal(block.tensor, expected)


def test_blocks_cut_twice_are_read_out_of_blocks_cut_twice(tmp_path):
    """Rows over two ranks and columns over two others, as with tensor parallelism below FSDP."""
    whole = tensors_of(1)["matrix"]
    quarters = [Block(tensor=q.tensor.contiguous(), offsets=(r.offsets[0], q.offsets[1]), shape=(10, 6))
                for r in cut(whole, [0, 7, 10], 0) for q in cut(r.tensor, [0, 2, 6], 1)]  # fmt: skip
    reports = []
    for rank, quarter in enumerate(quarters):
        part = part_of(rank, {"matrix": quarter}, {})
        shapes = {"matrix": (10, 6)}
        part = dataclasses.replace(part, shapes=shapes)
        reports.append(write_part(tmp_path, step=1, part=part))
    folder = make_whole(tmp_path, step=1, reports=reports)
    target = Block(tensor=torch.zeros(5, 3), offsets=(4, 1), shape=(10, 6))
    load_into(folder, {"matrix": target})
    assert torch.equal(target.tensor, whole[4:9, 1:4])
    assert torch.equal(read_tensor(list_tensors(weight_shards(folder))["matrix"]), whole)


def test_torchs_own_reader_and_planner_read_it(save_together):
    """Independent of `load_into`: whole tensors by torch.distributed.checkpoint alone."""
    folder, saved = save_together(3), tensors_of(3)
    found = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
    reader, planner = HuggingFaceStorageReader(str(folder)), DefaultLoadPlanner()
    planner.set_up_planner(found, reader.read_metadata(), is_coordinator=True)
    reader.set_up_storage_reader(planner.metadata, is_coordinator=True)
    reader.read_data(planner.create_local_plan(), planner).wait()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


def test_whole_weights_are_read_one_by_one_without_the_moments(save_together):
    stored = list_tensors(weight_shards(save_together(3)))
    assert stored.keys() == SHAPES.keys()
    assert all(torch.equal(read_tensor(stored[name]), tensor) for name, tensor in tensors_of(3).items())


def test_what_does_not_fit_is_named(save_together):
    folder = save_together(3)
    for name, block, sentence in (
        ("other", cut(torch.zeros(5), [0, 5], 0)[0], "other is not in the checkpoint"),
        ("norm", cut(torch.zeros(6), [0, 6], 0)[0], r"norm has shape \(5,\), not \(6,\)"),
        ("norm", cut(torch.zeros(5).double(), [0, 5], 0)[0], "norm is torch.float32, not torch.float64"),
    ):
        with pytest.raises(StorageError, match=sentence):
            load_into(folder, {name: block})


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_blocks_that_are_not_there_are_never_taken_for_zeros(save_together, lost):
    """Behind the manifest, which would have said so: the reader knows no more than the files that it finds."""
    folder = save_together(3)
    (folder / f"weights-shard-{lost + 1:05}-of-00004.safetensors").unlink()
    target = cut(torch.zeros(10, 6), [0, 10], 0)[0]
    with pytest.raises(StorageError, match="matrix is not there as a whole"):
        load_into(folder, {"matrix": target})


def damage(folder: Path, kind: str, other: Path) -> None:
    path = folder / "weights-shard-00002-of-00004.safetensors"
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(content[:-7])
    elif kind == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    else:
        shutil.copy(other / path.name, path)


@pytest.mark.parametrize("kind", ["missing", "truncated", "flipped", "of another step"])
def test_a_damaged_shard_makes_the_checkpoint_be_ignored_with_its_name(save_together, tmp_path, kind):
    older = save_together(1)
    damage(save_together(2), kind, older)
    found, notes = newest_checkpoint(tmp_path)
    assert found is not None and found.step == 1
    assert len(notes) == 1 and "checkpoint-2: weights-shard-00002-of-00004.safetensors" in notes[0]


def test_a_rank_whose_disk_refused_is_named_on_all_ranks(save_together, tmp_path, monkeypatch):
    save_together(1)
    real = sharded.save_file

    def refuse(tensors, path, metadata):
        if "shard-00003" in path.name:
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(sharded, "save_file", refuse)
    reports = write_all(tmp_path, 2)
    with pytest.raises(StorageError, match="rank 2 could not write its part: no space left while saving") as caught:
        refuse_failed(tmp_path, step=2, reports=reports)
    assert "free some space" in caught.value.mend
    assert newest_checkpoint(tmp_path)[0].step == 1


def test_a_rank_that_writes_to_another_disk_is_named(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    reports = write_all(tmp_path / "here", 1)
    there = write_all(tmp_path / "there", 1)
    (tmp_path / "here" / ".checkpoint-1.tmp" / "weights-shard-00002-of-00004.safetensors").unlink()
    with pytest.raises(StorageError, match=r"which rank 1 wrote, is not in the folder of rank 0\n.*all ranks share"):
        make_whole(tmp_path / "here", step=1, reports=[reports[0], there[1], *reports[2:]])
    assert newest_checkpoint(tmp_path / "here")[0] is None


@pytest.mark.parametrize("times", [0, 2])
def test_a_block_that_no_rank_wrote_or_two_is_noticed(tmp_path, times):
    of_rank = rows_of_ranks(tensors_of(1))
    moments = rows_of_ranks({f"{name}.exp_avg": tensor for name, tensor in tensors_of(1).items()})
    block = of_rank[1].pop("matrix")
    if times:
        of_rank[1]["matrix"] = of_rank[3]["matrix"] = block
    reports = [
        write_part(tmp_path, step=1, part=part_of(rank, of_rank[rank], moments[rank])) for rank in range(NUM_RANKS)
    ]
    with pytest.raises(StorageError, match=r"the ranks wrote .* of the 60 numbers of matrix"):
        make_whole(tmp_path, step=1, reports=reports)


class PowerCutError(BaseException):
    """No handler of the product may catch this, as none runs when the power goes."""


@pytest.mark.parametrize("name", ["save_file", "sync_file", "write_files", "record", "put_in_place"])
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_crash_of_any_rank_leaves_the_older_checkpoint(save_together, tmp_path, monkeypatch, name, is_done):
    save_together(1)
    real = getattr(sharded, name)

    def crash(*arguments, **options):
        if is_done:
            real(*arguments, **options)
        raise PowerCutError

    monkeypatch.setattr(sharded, name, crash)
    with pytest.raises(PowerCutError):
        save_together(2)
    monkeypatch.undo()
    is_renamed = name == "put_in_place" and is_done
    found, notes = newest_checkpoint(tmp_path)
    assert found is not None and (found.step, notes) == (2 if is_renamed else 1, [])
    assert len(remove_leftovers(tmp_path)) == (0 if is_renamed else 1)
    save_together(3)
    assert newest_checkpoint(tmp_path)[0].step == 3


def test_the_best_shares_its_shards_with_the_checkpoint_and_outlives_it(save_together, tmp_path):
    folder, best = save_together(1), tmp_path / BEST
    copy_checkpoint(folder, best)
    shard = "weights-shard-00001-of-00004.safetensors"
    assert not best.is_symlink() and (best / shard).samefile(folder / shard)
    save_together(2)
    prune(tmp_path, keep=1)
    assert not folder.exists() and open_checkpoint(best).step == 1


def test_the_best_is_copied_on_a_disk_without_links(save_together, tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    copy_checkpoint(save_together(1), tmp_path / BEST)
    assert open_checkpoint(tmp_path / BEST).step == 1


def test_equal_values_make_equal_files(tmp_path):
    """safetensors puts several entries of a header in another order each time."""
    sums = set()
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        sums.add("".join(write_all(tmp_path / str(number), 1)))
    assert len(sums) == 1
