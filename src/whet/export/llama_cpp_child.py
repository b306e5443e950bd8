"""llama.cpp in a process of its own: what it makes of a GGUF file, as arrays. A crash in there ends only this process.

Reads a JSON object from the standard input and writes the .npz file that it names. Imports nothing of whet.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

_F32 = 0
"""GGML's number for float32: keys and values are cached as they are, not rounded to float16"""


def main() -> None:
    """Keys of the request: `model`, `lora` (or null), `ids` (token sequences), `texts`, `output`."""
    import llama_cpp

    request: dict[str, Any] = json.load(sys.stdin)
    longest = max([1, *map(len, request["ids"])])
    model = llama_cpp.Llama(
        request["model"],
        lora_path=request["lora"],
        n_ctx=longest,
        n_batch=longest,
        n_threads=1,
        logits_all=True,
        type_k=_F32,
        type_v=_F32,
        verbose=False,
    )
    arrays: dict[str, Any] = {}
    for number, ids in enumerate(request["ids"]):
        model.reset()
        model.eval(ids)
        arrays[f"logits_{number}"] = np.array(model.scores[: len(ids)])
    for number, text in enumerate(request["texts"]):
        arrays[f"text_{number}"] = np.array(model.tokenize(text.encode(), add_bos=True, special=True))
    np.savez(Path(request["output"]), **arrays)
    model.close()


if __name__ == "__main__":
    main()
