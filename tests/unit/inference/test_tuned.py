"""What a finished run left is read only if it is what the run wrote."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_runs

from whet.cache import digest_of
from whet.errors import StorageError
from whet.inference.tuned import load_tuned
from whet.models.load import load_pretrained
from whet.recipe.schema import Adapter, Model


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_flipped_bit_is_refused_not_evaluated(tmp_path, name):
    """A flipped bit of the last byte is one of a weight: safetensors loads it without a word."""
    import torch

    base = tiny_runs.write_base(tmp_path / "base")
    run = tiny_runs.write_adapter_run(tmp_path / "run", base, Adapter(rank=2)).folder
    sums = {each: digest_of(run / each) for each in ("adapter_model.safetensors", "adapter_config.json")}
    (run / "manifest.json").write_text(json.dumps({"format_version": 1, "sha256": sums}))
    loaded = load_pretrained(Model(id=str(base), dtype="float32"), device=torch.device("cpu"))
    whole = shutil.copytree(run, tmp_path / "whole")
    content = bytearray((run / name).read_bytes())
    content[-1 if name.endswith("safetensors") else content.index(b'"r": 2') + 5] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(StorageError, match=f"{name} was changed or damaged"):
        load_tuned(loaded, run)
    load_tuned(loaded, whole)
