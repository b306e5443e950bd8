"""Claim: on two CPU cores whet trains SmolLM2-135M with LoRA faster than TRL does by default and at its fastest.

The same token ids and labels, order, rows per step, first adapter values, AdamW and learning rates on both sides
(both get tokenized rows, so that tokenizing is not measured). TRL with PEFT runs twice: with the settings that its
SFTConfig has when nothing but the necessary is set, and with the fastest of several that a user of a CPU would try.
Every run is a process of its own; the sides alternate; the first step of a run is not measured. Tokens are real ones:
padding does not count. Rows are GSM8K when WHET_TEST_DATA names a folder with them, else generated problems.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import write_result

SEED = 42
ADAPTER = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"}
OPTIM = {"lr": 2e-4, "schedule": "constant", "warmup": 0, "weight_decay": 0.0, "max_grad_norm": 1.0}
BATCH_ROWS = 8
"""rows per optimizer step: TRL's default per_device_train_batch_size"""

BF16_WEIGHTS = {"model_init_kwargs": {"dtype": "bfloat16"}, "bf16": True, "activation_checkpointing": False}
BEST_CANDIDATES: dict[str, dict[str, Any]] = {
    "one row x 8": BF16_WEIGHTS | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "padded 2 x 4": BF16_WEIGHTS | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "packed 512 x 4": BF16_WEIGHTS
    | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "packing": True, "max_length": 512},
}
"""Frozen weights held in bfloat16, no recomputation: what makes TRL fast here. Packing is TRL's `bfd`.

Left out, slower and larger on one thread: 8 rows padding-free (tried with SmolLM2), packs of 1024 tokens and 8 padded
rows (tried with a toy body under SmolLM2's vocabulary).
"""
FLOAT32 = {"bf16": False, "activation_checkpointing": False, "per_device_train_batch_size": BATCH_ROWS}


def prepare_rows(num_rows: int, folder: Path, model: str) -> dict[str, Any]:
    """Tokenized rows, the adapter's first values and the model's folder: what all runs share."""
    import torch
    from safetensors.torch import save_file

    import whet_side
    from whet.data.pipeline import prepare
    from whet.kernels.dropout import DropoutState
    from whet.models.load import load_pretrained
    from whet.recipe.schema import Data, Model, Recipe, Source

    data = os.environ.get("WHET_TEST_DATA")
    path = Path(data) / "gsm8k" / "train.jsonl" if data else None
    if path and path.is_file():
        name, source = "GSM8K train", Source(source=str(path), rows=2 * num_rows)
    else:
        name, source = "generated", Source(source="reasoning-gym:leg_counting", rows=2 * num_rows)
    recipe = Recipe(name="rows", output="none", data=Data(train=(source,), max_length=512), adapter=ADAPTER, seed=SEED)
    loaded = load_pretrained(Model(id=model, dtype="float32"), device=torch.device("cpu"))
    samples = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd()).train.samples
    trainables = whet_side.attach(loaded, recipe, DropoutState(SEED))
    save_file({n: p.detach().contiguous() for n, p in trainables.named.items()}, folder / "first.safetensors")
    rows = [
        {"input_ids": s.ids.tolist(), "labels": [int(i) if t else -100 for i, t in zip(s.ids, s.taught, strict=True)]}
        for s in samples[:num_rows]
    ]
    assert len(rows) == num_rows, "too many rows were too long"
    shared = {"rows": rows, "first_adapter": str(folder / "first.safetensors"), "model": str(loaded.folder)}
    return shared | {"rows_from": name, "model_identity": asdict(loaded.identity)}


def measure(side: str, shared: dict[str, Any], *, threads: int, num_rows: int | None = None, **more: Any) -> dict:
    """Run one side in a fresh process and return what it prints."""
    job = {k: shared[k] for k in ("first_adapter", "model")} | {"rows": shared["rows"][:num_rows]}
    job |= {"seed": SEED, "adapter": ADAPTER, "optim": OPTIM, "batch_rows": BATCH_ROWS, "threads": threads} | more
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--worker", side], input=json.dumps(job), env=environment, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    result |= {"threads": threads, "wall_seconds": time.monotonic() - started, "load_average": os.getloadavg()[0]}
    return result


def say(name: str, run: dict[str, Any]) -> None:
    print(
        f"{name:32s} {run['threads']} threads {run['tokens_per_second']:8.1f} tokens/s "
        f"{statistics.median(run['seconds_per_step']):7.2f} s/step {run['peak_memory_bytes'] / 1e9:6.2f} GB "
        f"padding {run['padding_share']:5.1%}  first loss {run['losses'][0]:.4f}  ({run['wall_seconds']:.0f} s)",
        flush=True,
    )


def choose_best(shared: dict[str, Any], threads: tuple[int, ...], num_rows: int) -> tuple[str, int, list[dict]]:
    """TRL's fastest settings: every candidate at the most threads, then the fastest one at the other counts."""
    tried = []
    for name, settings in BEST_CANDIDATES.items():
        run = measure("trl", shared, threads=threads[0], num_rows=num_rows, settings=settings)
        say(f"TRL {name}", run)
        tried.append({"name": name, **run})
    fastest = max(tried, key=lambda r: r["tokens_per_second"])["name"]
    for count in threads[1:]:
        run = measure("trl", shared, threads=count, num_rows=num_rows, settings=BEST_CANDIDATES[fastest])
        say(f"TRL {fastest}", run)
        tried.append({"name": fastest, **run})
    best = max((r for r in tried if r["name"] == fastest), key=lambda r: r["tokens_per_second"])
    return fastest, best["threads"], tried


def alternate(shared: dict[str, Any], pairs: int, threads: tuple[int, ...], best: tuple[str, int]) -> dict[str, list]:
    """`pairs` rounds of: TRL default, whet, TRL best, whet with one thread."""
    most, fewest = threads[0], threads[-1]
    sides: dict[str, dict[str, Any]] = {
        "TRL default": {"side": "trl", "threads": most, "settings": {}},
        f"whet {most} threads": {"side": "whet", "threads": most, "dtype": "auto"},
        f"TRL best ({best[0]})": {"side": "trl", "threads": best[1], "settings": BEST_CANDIDATES[best[0]]},
    }
    if fewest != most:
        sides[f"whet {fewest} thread"] = {"side": "whet", "threads": fewest, "dtype": "auto"}
    runs: dict[str, list] = {name: [] for name in sides}
    for _ in range(pairs):
        for name, how in sides.items():
            run = measure(how["side"], shared, **{k: v for k, v in how.items() if k != "side"})
            say(name, run)
            runs[name].append(run)
    return runs


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [r["tokens_per_second"] for r in runs]
    return {
        "runs": len(runs),
        "median_tokens_per_second": statistics.median(rates),
        "range_tokens_per_second": [min(rates), max(rates)],
        "median_seconds_per_step": statistics.median(s for r in runs for s in r["seconds_per_step"]),
        "median_peak_memory_bytes": statistics.median(r["peak_memory_bytes"] for r in runs),
        "padding_share": runs[0]["padding_share"],
        "threads": runs[0]["threads"],
        "losses": runs[0]["losses"],
        "load_averages": [r["load_average"] for r in runs],
        "configuration": runs[0]["configuration"],
    }


def ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """whet over TRL, round by round."""
    each = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(each), "range": [min(each), max(each)], "runs": len(each)}


def loss_gaps(a: list[float], b: list[float]) -> list[float]:
    return [abs(x - y) for x, y in zip(a, b, strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="measured steps of 8 rows after the warm-up step")
    parser.add_argument("--pairs", type=int, default=3, help="rounds in which the sides alternate")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))), help="the most to use")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="built-in name or a folder")
    parser.add_argument("--quick", action="store_true", help="one round, one measured step; nothing is written")
    parser.add_argument("--worker", choices=["trl", "whet"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        import importlib

        print("\n" + json.dumps(importlib.import_module(f"{args.worker}_side").run(json.loads(sys.stdin.read()))))
        return
    steps, pairs = (1, 1) if args.quick else (args.steps, args.pairs)
    threads = (args.threads, 1) if args.threads > 1 else (1,)
    with tempfile.TemporaryDirectory() as folder:
        shared = prepare_rows((steps + 1) * BATCH_ROWS, Path(folder), args.model)
        result = compare(shared, steps, pairs, threads)
    if not args.quick:
        write_result("cpu_vs_trl", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


def compare(shared: dict[str, Any], steps: int, pairs: int, threads: tuple[int, ...]) -> dict[str, Any]:
    """All runs, their table and the object of the result file."""
    float32_rows = min(3, steps + 1) * BATCH_ROWS
    best_name, best_threads, tried = choose_best(shared, threads, 2 * BATCH_ROWS)
    runs = alternate(shared, pairs, threads, (best_name, best_threads))
    trl_float32 = measure("trl", shared, threads=threads[0], num_rows=float32_rows, settings=FLOAT32)
    whet_float32 = measure("whet", shared, threads=threads[0], num_rows=float32_rows, dtype="float32")
    for name, run in (("TRL float32", trl_float32), ("whet float32", whet_float32)):
        say(name, run)
    assert trl_float32["num_tokens"] == whet_float32["num_tokens"], "both sides must count the same tokens"

    default, whet, best, *whet_one = runs
    gaps = {
        "whet (bfloat16 weights) against TRL default (float32 weights, bfloat16 autocast)": loss_gaps(
            runs[whet][0]["losses"], runs[default][0]["losses"]
        ),
        "whet float32 against TRL float32": loss_gaps(whet_float32["losses"], trl_float32["losses"]),
    }
    table = {f"{ours} over {theirs}": ratios(runs[ours], runs[theirs]) for ours in (whet, *whet_one)
             for theirs in (default, best)}  # fmt: skip
    for name, ratio in table.items():
        print(f"{name}: {ratio['median']:.2f}x  ({ratio['range'][0]:.2f} to {ratio['range'][1]:.2f})")
    for name, gap in gaps.items():
        print(f"loss gap per step, {name}: " + " ".join(f"{g:.1e}" for g in gap))
    num_tokens = sum(len(row["input_ids"]) for row in shared["rows"])
    return {
        "model": shared["model_identity"],
        "rows": {"from": shared["rows_from"], "rows": len(shared["rows"]), "tokens": num_tokens,
                 "rows_per_step": BATCH_ROWS, "measured_steps": steps, "warm_up_steps": 1},
        "shared": {"adapter": ADAPTER, "optim": OPTIM, "seed": SEED},
        "ratios": table,
        "loss_gaps": gaps,
        "sides": {name: summarize(each) for name, each in runs.items()},
        "trl_candidates": [
            {"name": run["name"], "settings": BEST_CANDIDATES[run["name"]], **summarize([run])} for run in tried
        ],
        "float32": {"TRL": summarize([trl_float32]), "whet": summarize([whet_float32])},
    }  # fmt: skip


if __name__ == "__main__":
    main()
