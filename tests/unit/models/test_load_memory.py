"""Loading a frozen base holds one copy of its weights, in the format that it is computed in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_folders import chatml, write_folder

pytestmark = pytest.mark.slow

LOAD = """
import re, sys, threading, time
import torch
import transformers.models.llama.modeling_llama
from whet.models.load import load_pretrained
from whet.recipe.schema import Model

def held():
    # without pages of the weights file, which the system drops when it wants the memory
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

def watch():
    while not done.is_set():
        most[0] = max(most[0], held())
        time.sleep(0.001)

folder, small = sys.argv[1:]
load_pretrained(Model(id=small, dtype="bfloat16"), device=torch.device("cpu"))  # what is imported and made once
before, most, done = held(), [0], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
loaded = load_pretrained(Model(id=folder, dtype="bfloat16"), device=torch.device("cpu"))
done.set()
watcher.join()
print(max(most[0], held()) - before, sum(weight.nbytes for weight in loaded.model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_float32_file_is_never_in_memory_beside_its_bfloat16_weights(tmp_path):
    tokenizer = chatml()
    large = write_folder(
        tmp_path / "large", tokenizer, dtype=torch.float32, hidden_size=1024, intermediate_size=4096,
        num_hidden_layers=3,
    )  # fmt: skip
    small = write_folder(tmp_path / "small", tokenizer)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(large), str(small)], capture_output=True, text=True, check=True
    )  # fmt: skip
    grown, weights = map(int, done.stdout.split())
    assert weights > 80_000_000
    assert grown < 1.3 * weights
