"""Claim: whet writes SmolLM2's answers faster than transformers' generate, on merged weights and with PEFT's adapters.

Two processor cores, GSM8K test questions where WHET_TEST_DATA names a folder with them (else generated problems), the
same rows, batch and number format for all. `merged` is transformers' own `generate` on the merged weights; `unmerged`
the same with PEFT's adapters attached (rank 16 on all linear layers, as trained). whet answers with the merged weights,
as `whet evaluate` does; `attached` is whet with the adapters attached, as it answers while it trains.

Each side is called in turn, `--pairs` times; ratios are of neighbours in time. `full length`: no token ends an answer,
so every row writes all its tokens. `stops`: stop tokens end answers; a batch of `generate` then runs until its last row
has ended, whet fills the free places. Tokens behind a stop token are not counted. transformers gets batches of rows of
like length, left padding with its mask, and the cache (growing or static) that is faster in a trial.

`one question a call`: transformers with PEFT's adapters attached is given each question by itself, as scripts that call
`generate` in a loop do (the FiQA project's among them); whet answers the same questions side by side.

First of all whet alone: 128 rows of 160 new tokens, for the claim of at most 60 s; last the greedy texts in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from machine import peak_memory_bytes, write_result
from whet.data import templates
from whet.data.rows import number_ids
from whet.data.sources import BadRow, open_source
from whet.inference.engine import Decoding, generate
from whet.kernels import attention, select
from whet.models.adapters import ADAPTER_NAME, attach_lora
from whet.models.load import LoadedModel, load_pretrained
from whet.recipe.schema import Adapter, Model, Source

Prompts = list[list[int]]
Answers = list[tuple[int, ...]]
ADAPTER = Adapter(rank=16, alpha=32.0)


def load_prompts(loaded: LoadedModel, num_rows: int) -> tuple[str, Prompts]:
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


def with_whet(
    loaded: LoadedModel, prompts: Prompts, num_new: int, batch_rows: int, stop_ids: frozenset[int]
) -> Answers:
    """Answers in the order of the prompts."""
    has_adapter = any(hasattr(module, "lora_A") for module in loaded.model.modules())
    select.install(loaded.model, adapter_name=ADAPTER_NAME if has_adapter else None)
    decoding = Decoding(max_new_tokens=num_new, batch_rows=batch_rows)
    return [c.ids for c in generate(loaded.model, prompts, stop_ids=stop_ids, decoding=decoding)]


def with_transformers(
    loaded: LoadedModel, prompts: Prompts, num_new: int, batch_rows: int, stop_ids: frozenset[int], cache: str | None
) -> Answers:
    """Answers in the order of the prompts; batches of neighbours in length, so that little is padded."""
    model, pad = loaded.model, loaded.tokenizer.pad_token_id
    select.uninstall(model)
    model.set_attn_implementation("sdpa")
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers: dict[int, tuple[int, ...]] = {}
    for first in range(0, len(order), batch_rows):
        chosen = order[first : first + batch_rows]
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=num_new, do_sample=False, pad_token_id=pad,
                eos_token_id=sorted(stop_ids) or None, min_new_tokens=None if stop_ids else num_new,
                cache_implementation=cache, disable_compile=True,
            )  # fmt: skip
        for i, row in zip(chosen, out, strict=True):
            answers[i] = _until_stop(row[width:].tolist(), stop_ids)
    return [answers[i] for i in range(len(prompts))]


def _until_stop(ids: list[int], stop_ids: frozenset[int]) -> tuple[int, ...]:
    end = next((i + 1 for i, token in enumerate(ids) if token in stop_ids), len(ids))
    return tuple(ids[:end])


def measure(write: Callable[[], Answers]) -> dict[str, float]:
    """Wall and processor seconds, and tokens that count."""
    wall, processor = time.monotonic(), time.process_time()
    num_tokens = sum(map(len, write()))
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    return {
        "seconds": wall,
        "processor_seconds": processor,
        "new_tokens": num_tokens,
        "tokens_per_second": num_tokens / wall,
    }


def compare(first: list[dict[str, float]], second: list[dict[str, float]]) -> dict[str, Any]:
    """How many times faster `first` is in tokens per second: median and range over the pairs."""
    ratios = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(first, second, strict=True)]
    return {"times_faster": statistics.median(ratios), "range": [min(ratios), max(ratios)], "pairs": len(ratios)}


def faster_cache(loaded: LoadedModel, prompts: Prompts, args: argparse.Namespace) -> str | None:
    """The cache with which transformers writes one batch faster; None is its growing one."""
    rows, tokens = prompts[: args.batch_rows], max(2, args.new_tokens // 4)
    seconds = {}
    for cache in (None, "static"):
        with_transformers(loaded, rows[:1], 2, 1, frozenset(), cache)
        seconds[cache] = measure(
            lambda cache=cache: with_transformers(loaded, rows, tokens, args.batch_rows, frozenset(), cache)
        )["processor_seconds"]
    return min(seconds, key=lambda cache: seconds[cache])


def in_turn(sides: dict[str, Callable[[], Answers]], num_rounds: int) -> dict[str, list[dict[str, float]]]:
    """What each side took in each round, neighbours in time next to each other."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(num_rounds):
        for name, write in sides.items():
            found[name].append(measure(write))
            print(f"  {name}: {found[name][-1]['tokens_per_second']:.0f} tokens/s", flush=True)
    return found


def run_pairs(
    plain: LoadedModel, adapted: LoadedModel, prompts: Prompts, stop_ids: frozenset[int], args: argparse.Namespace
) -> dict[str, Any]:
    """Every side in turn; see the top of this file."""
    rest = (prompts, args.new_tokens, args.batch_rows, stop_ids)
    sides: dict[str, Callable[[], Answers]] = {
        "whet": lambda: with_whet(plain, *rest),
        "merged": lambda: with_transformers(plain, *rest, args.cache),
        "unmerged": lambda: with_transformers(adapted, *rest, args.cache),
        "attached": lambda: with_whet(adapted, *rest),
    }
    found = in_turn(sides, args.pairs)
    return {
        "merged": compare(found["whet"], found["merged"]),
        "unmerged": compare(found["whet"], found["unmerged"]),
        "merging_instead_of_attaching": compare(found["whet"], found["attached"]),
        "runs": found,
    }


def run_one_a_call(
    plain: LoadedModel, adapted: LoadedModel, prompts: Prompts, args: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    """whet over a loop of calls with one question each, adapters attached and nothing padded; in turn."""
    rest, no_stops = (prompts, args.new_tokens), frozenset[int]()
    sides: dict[str, Callable[[], Answers]] = {
        "whet": lambda: with_whet(plain, *rest, args.batch_rows, no_stops),
        "unmerged": lambda: with_transformers(adapted, *rest, 1, no_stops, args.cache),
    }
    found = in_turn(sides, args.pairs)
    return {"rows": len(prompts), "unmerged": compare(found["whet"], found["unmerged"]), "runs": found}


def same_texts(prompts: Prompts, args: argparse.Namespace) -> dict[str, Any]:
    """Rows whose greedy answers in float32 are the same tokens, and for the others how close the two tokens were."""
    loaded = load_pretrained(Model(dtype="float32"), device=torch.device("cpu"))
    rest = (prompts, args.new_tokens, args.batch_rows, frozenset(loaded.stop_ids))
    ours, theirs = with_whet(loaded, *rest), with_transformers(loaded, *rest, args.cache)
    differing = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    return {
        "rows": len(prompts),
        "equal": len(prompts) - len(differing),
        "gaps_between_the_two_logits": [_gap(loaded, prompts[i], ours[i], theirs[i]) for i in differing],
    }


def _gap(loaded: LoadedModel, prompt: list[int], ours: tuple[int, ...], theirs: tuple[int, ...]) -> float:
    """Difference of the logits of the two tokens where two answers part, read in one pass without a cache."""
    place = next(i for i, (a, b) in enumerate(zip((*ours, -1), (*theirs, -1), strict=False)) if a != b)
    with torch.inference_mode():
        logits_V = loaded.model(torch.tensor([[*prompt, *ours[:place]]]), use_cache=False).logits[0, -1]
    return abs(float(logits_V[ours[place]] - logits_V[theirs[place]]))


def _adapted() -> LoadedModel:
    loaded = load_pretrained(Model(), device=torch.device("cpu"))
    trainables = attach_lora(
        loaded.model, ADAPTER, seed=0, identity=loaded.identity, make_dropout=lambda _p, _name: torch.nn.Identity()
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in trainables.all_values.values():
            value.add_(1e-4 * torch.randn(value.shape, generator=generator))
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long-rows", type=int, default=128, help="rows that whet answers alone; 0: none")
    parser.add_argument("--long-tokens", type=int, default=160)
    parser.add_argument("--long-batch-rows", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=3, help="times that each side is called; 0: none")
    parser.add_argument("--rows", type=int, default=32, help="rows that every side answers")
    parser.add_argument("--loop-rows", type=int, default=8, help="rows answered one question a call")
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--batch-rows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    plain = load_pretrained(Model(), device=torch.device("cpu"))
    name, prompts = load_prompts(plain, max(args.long_rows, args.rows))
    attention.install(plain.model)
    generate(plain.model, prompts[:2], stop_ids=frozenset(), decoding=Decoding(max_new_tokens=8, batch_rows=2))
    result: dict[str, Any] = {
        "prompts": name, "dtype": str(plain.compute_dtype), "threads": torch.get_num_threads(), "settings": vars(args),
    }  # fmt: skip
    if args.long_rows:
        rest = (prompts[: args.long_rows], args.long_tokens, args.long_batch_rows, frozenset[int]())
        result["whet_alone"] = measure(lambda: with_whet(plain, *rest))
        print(json.dumps(result["whet_alone"]), flush=True)
    if args.pairs:
        args.cache = faster_cache(plain, prompts, args)
        result["transformers_cache"] = args.cache or "growing"
        adapted = _adapted()
        for setting, stop_ids in (("full_length", frozenset[int]()), ("stops", frozenset(plain.stop_ids))):
            print(setting, flush=True)
            result[setting] = run_pairs(plain, adapted, prompts[: args.rows], stop_ids, args)
        print("one question a call", flush=True)
        result["one_question_a_call"] = run_one_a_call(plain, adapted, prompts[: args.loop_rows], args)
        result["same_texts_in_float32"] = same_texts(prompts[: args.rows], args)
    result["peak_memory_bytes"] = peak_memory_bytes()
    print(json.dumps(result, indent=1))
    write_result("generation", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


if __name__ == "__main__":
    main()
