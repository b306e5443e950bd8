"""What llama.cpp makes of a GGUF file, where llama-cpp-python is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from whet.errors import GateError

_CHILD = Path(__file__).with_name("llama_cpp_child.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What llama.cpp answered."""

    logits: list[np.ndarray]
    """float32 [T, V] of every token sequence"""
    ids: list[list[int]]
    """of every text, with the begin token if the file asks for one"""


def is_installed() -> bool:
    """Whether llama-cpp-python can be imported."""
    return importlib.util.find_spec("llama_cpp") is not None


def read_gguf(
    model: Path, *, lora: Path | None = None, ids: Sequence[Sequence[int]] = (), texts: Sequence[str] = ()
) -> Reading:
    """Logits of `ids` and tokens of `texts` by llama.cpp, with the adapter file `lora` applied; GateError if it fails.

    Runs in a child process: llama.cpp ends the process when something is wrong.
    """
    with TemporaryDirectory(prefix="whet-llama-cpp-") as folder:
        output = Path(folder) / "answer.npz"
        request = {
            "model": str(model), "lora": str(lora) if lora else None, "ids": [list(map(int, row)) for row in ids],
            "texts": list(texts), "output": str(output),
        }  # fmt: skip
        done = subprocess.run(  # noqa: S603 - this Python and a file of ours
            # -P: the files beside the child are no modules of its own (`gguf` is a library)
            [sys.executable, "-P", str(_CHILD)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not output.is_file():
            said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise GateError(
                f"llama.cpp cannot use the file: {said[0]}",
                where=str(model),
                mend="export without the proof (--no-proof) and try it in the program that will use it",
            )
        with np.load(output, allow_pickle=False) as answer:
            return Reading(
                logits=[answer[f"logits_{number}"] for number in range(len(ids))],
                ids=[answer[f"text_{number}"].tolist() for number in range(len(texts))],
            )
