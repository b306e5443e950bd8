"""Claim: 128 problems of up to 160 new tokens are answered by SmolLM2-135M in 60 s on two cores.

Prompts are GSM8K test questions when WHET_TEST_DATA names a folder with them, else generated problems. By default no
stop token is honoured, so that every row really writes all its tokens: the worst case. `--hf-rows N` lets transformers'
own `generate` (left padding, growing cache) answer the first N rows in the same process, for the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from machine import peak_memory_bytes, write_result
from whet.data import templates
from whet.data.rows import number_ids
from whet.data.sources import BadRow, open_source
from whet.inference.engine import Decoding, generate
from whet.kernels import attention
from whet.models.load import LoadedModel, load_pretrained
from whet.recipe.schema import Model, Source


def load_prompts(loaded: LoadedModel, num_rows: int) -> tuple[str, list[list[int]]]:
    """(where the questions come from, token ids of each prompt)"""
    data = os.environ.get("WHET_TEST_DATA")
    path = Path(data) / "gsm8k" / "test.jsonl" if data else None
    if path and path.is_file():
        name, source = "GSM8K test", Source(source=str(path), split="all", rows=num_rows)
    else:
        name, source = "generated", Source(source="reasoning-gym:leg_counting", split="test", rows=num_rows)
    rows = open_source(source, seed=0, base_folder=Path.cwd()).read()
    examples = number_ids(row for row in rows if not isinstance(row, BadRow))
    return name, templates.prompts(templates.build_template(loaded.tokenizer, "chat", loaded.stop_ids), examples)


def run_whet(
    loaded: LoadedModel, prompts: list[list[int]], num_new: int, batch_rows: int, stop_ids: frozenset[int]
) -> dict[str, Any]:
    attention.install(loaded.model)
    decoding = Decoding(max_new_tokens=num_new, batch_rows=batch_rows)
    generate(loaded.model, prompts[:2], stop_ids=stop_ids, decoding=Decoding(max_new_tokens=2, batch_rows=2))
    started = time.monotonic()
    completions = generate(loaded.model, prompts, stop_ids=stop_ids, decoding=decoding)
    seconds = time.monotonic() - started
    num_tokens = sum(len(c.ids) for c in completions)
    return {
        "rows": len(prompts),
        "seconds": seconds,
        "new_tokens": num_tokens,
        "tokens_per_second": num_tokens / seconds,
    }


def run_transformers(
    loaded: LoadedModel, prompts: list[list[int]], num_new: int, batch_rows: int, stop_ids: frozenset[int]
) -> dict[str, Any]:
    model, pad = loaded.model, loaded.tokenizer.pad_token_id
    model.set_attn_implementation("sdpa")
    num_tokens, started = 0, time.monotonic()
    for first in range(0, len(prompts), batch_rows):
        rows = prompts[first : first + batch_rows]
        width = max(len(r) for r in rows)
        ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=num_new, do_sample=False, pad_token_id=pad,
                eos_token_id=sorted(stop_ids) or None, min_new_tokens=None if stop_ids else num_new,
            )  # fmt: skip
        num_tokens += sum(_length(row[width:].tolist(), stop_ids) for row in out)
    seconds = time.monotonic() - started
    return {
        "rows": len(prompts),
        "seconds": seconds,
        "new_tokens": num_tokens,
        "tokens_per_second": num_tokens / seconds,
    }


def _length(ids: list[int], stop_ids: frozenset[int]) -> int:
    return next((i + 1 for i, token in enumerate(ids) if token in stop_ids), len(ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=160)
    parser.add_argument("--batch-rows", type=int, default=64)
    parser.add_argument("--stop", action="store_true", help="honour stop tokens")
    parser.add_argument("--hf-rows", type=int, default=0, help="rows that transformers' generate answers too")
    args = parser.parse_args()

    loaded = load_pretrained(Model(), device=torch.device("cpu"))
    name, prompts = load_prompts(loaded, args.rows)
    stop_ids = frozenset(loaded.stop_ids) if args.stop else frozenset()
    result: dict[str, Any] = {
        "prompts": name,
        "prompt_tokens": sum(len(p) for p in prompts),
        "dtype": str(loaded.compute_dtype),
        "threads": torch.get_num_threads(),
        "batch_rows": args.batch_rows,
        "honours_stop_tokens": args.stop,
        "whet": run_whet(loaded, prompts, args.new_tokens, args.batch_rows, stop_ids),
    }
    if args.hf_rows:
        result["transformers"] = run_transformers(
            loaded, prompts[: args.hf_rows], args.new_tokens, min(32, args.hf_rows), stop_ids
        )
    result["peak_memory_bytes"] = peak_memory_bytes()
    print(json.dumps(result, indent=1))
    write_result("generation", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


if __name__ == "__main__":
    main()
