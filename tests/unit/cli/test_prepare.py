"""`whet prepare` says where a model came from, where it lies, its size and its hash, or why it cannot be had."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
from safetensors.numpy import save_file

pytestmark = pytest.mark.slow


@pytest.fixture
def whet(tmp_path):
    """Run the command line in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from whet.cli.main import main; main()", *arguments]
        environment = os.environ | {"WHET_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run


def test_a_folder_is_described(whet, tmp_path):
    import numpy as np

    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"w": np.zeros(250_000, np.float32)}, folder / "model.safetensors")
    done = whet("prepare", "--model", str(folder))
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stderr
    assert rows["model"] == "tiny-llama"
    assert rows["folder"] == str(folder)
    assert rows["weights"] == "1.0 MB in 1 file(s)"
    assert rows["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert float(rows["seconds"]) < 10


def test_a_name_that_means_nothing_leaves_with_exit_code_2(whet):
    done = whet("prepare", "--model", "smollm2-135m-instuct")
    assert done.returncode == 2
    assert "did you mean smollm2-135m-instruct?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_model_that_cannot_be_had_leaves_with_exit_code_6(whet):
    done = whet("prepare", "--model", "nobody/nothing", "--revision", "v1")
    assert done.returncode == 6
    assert "nobody/nothing (revision v1) is not in the cache" in done.stderr
    assert "Traceback" not in done.stderr
