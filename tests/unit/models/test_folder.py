"""A folder that is no plain Llama in safetensors is refused by a sentence, and nothing in it is ever run."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from whet.errors import RecipeError, StorageError
from whet.models.folder import check_folder, weight_files, weights_sha256


def edit_json(path: Path, **changed) -> None:
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(value | changed))


def test_a_plain_llama_passes(tiny_folder):
    assert check_folder(tiny_folder)["model_type"] == "llama"
    assert weight_files(tiny_folder) == (tiny_folder / "model.safetensors",)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no such model folder"):
        check_folder(tmp_path / "nowhere")


def test_a_missing_config_is_named(tiny_folder):
    (tiny_folder / "config.json").unlink()
    with pytest.raises(RecipeError, match=r"holds no config\.json"):
        check_folder(tiny_folder)


@pytest.mark.parametrize("text", ["{", "[]", '"llama"'])
def test_a_config_that_is_no_json_object_is_named(tiny_folder, text):
    (tiny_folder / "config.json").write_text(text)
    with pytest.raises(StorageError, match=r"config\.json: (cannot be read as JSON|is not a JSON object)"):
        check_folder(tiny_folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_in_the_folder_is_refused(tiny_folder, name):
    edit_json(tiny_folder / name, auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(RecipeError, match=rf"{name}: asks for Python code of its own \(auto_map: AutoModelForCausalLM"):
        check_folder(tiny_folder)


def test_an_adapter_is_not_taken_for_a_model(tiny_folder):
    """transformers would follow base_model_name_or_path to whatever it names."""
    edit_json(tiny_folder / "adapter_config.json", base_model_name_or_path="somebody/else")
    with pytest.raises(RecipeError, match="holds an adapter"):
        check_folder(tiny_folder)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not Llama-shaped"),
        ({"model_type": None}, "model_type None is not Llama-shaped"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding window is not Llama-shaped"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "the weights are quantised"),
    ],
)
def test_models_of_another_shape_are_refused(tiny_folder, changed, sentence):
    edit_json(tiny_folder / "config.json", **changed)
    with pytest.raises(RecipeError, match=sentence):
        check_folder(tiny_folder)


def test_pickled_weights_are_refused_by_name(tiny_folder):
    (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")
    with pytest.raises(RecipeError, match=r"only pickled weights \(pytorch_model\.bin\), which can run code"):
        weight_files(tiny_folder)


def test_missing_weights_are_named(tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(RecipeError) as caught:
        weight_files(tiny_folder)
    assert caught.value.what == "no model.safetensors"


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_weight_file_is_refused(tiny_folder, keep):
    path = tiny_folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(StorageError, match=r"model\.safetensors: is truncated or not a safetensors file"):
        weight_files(tiny_folder)


def split(folder: Path) -> tuple[Path, Path]:
    """The weights in two shards with an index, as large models come."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    weight_map = {name: names[index % 2] for index, name in enumerate(sorted(weights))}
    for shard in names:
        part = {name: np.array(values) for name, values in weights.items() if weight_map[name] == shard}
        save_file(part, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / names[0], folder / names[1]


def test_the_hash_is_what_sha256sum_prints(tiny_folder):
    files = weight_files(tiny_folder)
    assert weights_sha256(files) == hashlib.sha256(files[0].read_bytes()).hexdigest()
    shards = split(tiny_folder)
    assert weight_files(tiny_folder) == shards
    command = "LC_ALL=C sha256sum *.safetensors | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=tiny_folder, capture_output=True, text=True, check=True).stdout
    assert weights_sha256(shards) == printed.split()[0]


def test_a_missing_shard_is_named(tiny_folder):
    first, _ = split(tiny_folder)
    first.unlink()
    with pytest.raises(StorageError, match=r"model-00001-of-00002\.safetensors: this weight file is missing"):
        weight_files(tiny_folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_an_index_cannot_name_files_outside_the_folder(tiny_folder, name):
    split(tiny_folder)
    (tiny_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(StorageError, match="names no weight files of this folder"):
        weight_files(tiny_folder)
