"""Weights written one by one are what the safetensors library writes, and shards are what transformers reads."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_llama
from transformers import LlamaForCausalLM

from whet.errors import NonFiniteError, StorageError
from whet.models.weight_files import INDEX, list_tensors, plan_shards, read_tensor, write_sharded

WEIGHTS = {n: p.detach().clone() for n, p in tiny_llama(torch.float32).named_parameters()}


def shapes(dtype=torch.float32):
    return {name: (tuple(weight.shape), dtype) for name, weight in WEIGHTS.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_safetensors_library_reads_back_what_was_written(tmp_path, dtype):
    (path,) = write_sharded(tmp_path, shapes(dtype), WEIGHTS.__getitem__, max_shard_bytes=10**9)
    read = load_file(path)
    assert path.name == "model.safetensors" and set(read) == set(WEIGHTS)
    assert all(torch.equal(read[name], weight.to(dtype)) for name, weight in WEIGHTS.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_transformers_loads_the_shards_by_their_index(tmp_path):
    paths = write_sharded(tmp_path, shapes(), WEIGHTS.__getitem__, max_shard_bytes=100_000)
    assert len(paths) > 2 and paths[0].name == f"model-00001-of-{len(paths):05}.safetensors"
    index = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == sum(w.numel() * 4 for w in WEIGHTS.values())
    model = tiny_llama(torch.float32)
    model.config.save_pretrained(tmp_path)
    loaded = dict(LlamaForCausalLM.from_pretrained(tmp_path, use_safetensors=True).named_parameters())
    assert all(torch.equal(loaded[name], weight) for name, weight in WEIGHTS.items())


def test_shards_keep_their_limit_and_lose_nothing():
    sizes = {"a": 4, "b": 5, "c": 1, "large": 30, "d": 10, "e": 1}
    groups = plan_shards(sizes, 10)
    assert groups == [["a", "b", "c"], ["large"], ["d"], ["e"]]


def test_only_one_tensor_is_asked_for_at_a_time_and_in_order(tmp_path):
    asked = []

    def read(name):
        asked.append(name)
        return WEIGHTS[name]

    write_sharded(tmp_path, shapes(), read, max_shard_bytes=100_000)
    assert asked == list(WEIGHTS)


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (1e6, torch.float16)])
def test_what_is_not_finite_in_the_file_is_not_written(tmp_path, value, dtype):
    with pytest.raises(NonFiniteError, match=r"w holds NaN or infinity"):
        write_sharded(tmp_path, {"w": ((2,), dtype)}, lambda _: torch.full((2,), value), max_shard_bytes=100)


def test_stored_tensors_are_listed_with_shape_and_dtype_and_read_one_by_one(tmp_path):
    save_file({"a": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(4)}, tmp_path / "2.safetensors")
    listed = list_tensors((tmp_path / "1.safetensors", tmp_path / "2.safetensors"))
    assert (listed["a"].shape, listed["a"].dtype) == ((2, 3), torch.bfloat16)
    assert torch.equal(read_tensor(listed["b"]), torch.zeros(4))


def test_integers_are_no_weights(tmp_path):
    save_file({"a": torch.ones(2, dtype=torch.int64)}, tmp_path / "1.safetensors")
    with pytest.raises(StorageError, match="holds I64"):
        list_tensors((tmp_path / "1.safetensors",))


def _save_piece(path, rows, begin):
    places = {"w": {"saved_offsets": begin}}
    save_file({"w": torch.full((rows, 2), 1.0)}, path, metadata={"DCP_SHARDING_INFO": json.dumps(places)})
    return path


def test_two_pieces_in_one_place_do_not_hide_a_hole(tmp_path):
    """As many numbers as the tensor has, and still nobody wrote rows 2 and 3."""
    files = tuple(
        _save_piece(tmp_path / f"{n}.safetensors", 2, begin) for n, begin in enumerate(([0, 0], [0, 0], [4, 0]))
    )
    with pytest.raises(StorageError, match="w is there twice"):
        list_tensors(files)


def test_files_that_say_nothing_clear_of_their_pieces_are_refused(tmp_path):
    for begin in (None, [0], [0, -1], [0, 0.5], "00"):
        with pytest.raises(StorageError, match=r"pieces|begins at"):
            list_tensors((_save_piece(tmp_path / "w.safetensors", 2, begin),))
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(StorageError, match="damaged"):
        list_tensors((tmp_path / "w.safetensors",))
