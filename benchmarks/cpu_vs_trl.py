"""Claim: on two CPU cores whet fine-tunes SmolLM2-135M faster than TRL does by default and at its fastest.

The same token ids and labels, rows per step, first adapter values, AdamW and learning rates on both sides. whet is
`whet train` with its defaults, in one process or one rank per core; TRL 1.16 with PEFT gets tokenized rows, so that
tokenizing is not measured, in the order in which whet takes them. It runs with the settings that its SFTConfig has
when nothing but the necessary is set, and with the fastest of several that a user of a CPU would try; each at as many
threads as is faster in a trial. Full fine-tuning and LoRA with dropout follow, against TRL's fastest settings.

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

import whet_side
from machine import write_result

SEED = 42
LORA = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"}
WITH_DROPOUT = LORA | {"dropout": 0.05}
FULL = {"method": "none"}
OPTIM = {"lr": 2e-4, "schedule": "constant", "warmup": 0, "weight_decay": 0.0, "max_grad_norm": 1.0}
BATCH_ROWS = 8
"""rows per optimizer step: TRL's default per_device_train_batch_size"""

BF16_WEIGHTS = {"model_init_kwargs": {"dtype": "bfloat16"}, "bf16": True, "activation_checkpointing": False}
PACKED = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "packing": True, "max_length": 512}
BEST_CANDIDATES: dict[str, dict[str, Any]] = {
    "one row x 8": BF16_WEIGHTS | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "padded 2 x 4": BF16_WEIGHTS | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "packed 512 x 4": BF16_WEIGHTS | PACKED,
}
"""Frozen weights held in bfloat16, no recomputation: what makes TRL fast here. Packing is TRL's `bfd`.

Left out, slower and larger on one thread: 8 rows padding-free (tried with SmolLM2), packs of 1024 tokens and 8 padded
rows (tried with a toy body under SmolLM2's vocabulary).
"""
FLOAT32 = {"bf16": False, "activation_checkpointing": False, "per_device_train_batch_size": BATCH_ROWS}


def prepare_rows(num_rows: int, folder: Path, model: str) -> dict[str, Any]:
    """The recipe's rows as tokens in the order of training, the adapter's first values and the model's folder."""
    import torch
    from safetensors.torch import save_file

    from whet.data.pipeline import prepare
    from whet.data.sampler import order_of
    from whet.kernels.dropout import DropoutState, StatelessDropout
    from whet.models.adapters import attach_lora
    from whet.models.load import load_pretrained
    from whet.recipe.resolve import resolve
    from whet.recipe.schema import Adapter, Batch, Data, Model, Recipe, Source

    data = os.environ.get("WHET_TEST_DATA")
    path = Path(data) / "gsm8k" / "train.jsonl" if data else None
    is_real = path is not None and path.is_file()
    source = {"source": str(path.resolve()) if is_real else "reasoning-gym:leg_counting", "rows": num_rows}
    recipe = Recipe(
        name="rows", output="none", data=Data(train=(Source(**source),), max_length=1024), adapter=Adapter(**LORA),
        batch=Batch(global_size=BATCH_ROWS), seed=SEED,
    )  # fmt: skip
    loaded = load_pretrained(Model(id=model, dtype="float32"), device=torch.device("cpu"))
    train = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd()).train
    assert len(train.samples) == num_rows, "a row was too long"
    order = order_of(recipe, train)
    plan = resolve(recipe, world_size=1, num_samples=order.num_units)
    in_order = [train.samples[i] for step in range(num_rows // BATCH_ROWS) for i in order.step(plan, step).indices]
    dropout = DropoutState(SEED)
    trainables = attach_lora(
        loaded.model, recipe.adapter, seed=SEED, identity=loaded.identity,
        make_dropout=lambda p, name: StatelessDropout(p, module_name=name, state=dropout),
    )  # fmt: skip
    save_file({n: p.detach().contiguous() for n, p in trainables.named.items()}, folder / "first.safetensors")
    rows = [
        {"input_ids": s.ids.tolist(), "labels": [int(i) if t else -100 for i, t in zip(s.ids, s.taught, strict=True)]}
        for s in in_order
    ]
    return {
        "rows": rows,
        "data": {"train": [source], "max_length": 1024},
        "first_adapter": str(folder / "first.safetensors"),
        "model": str(loaded.folder),
        "rows_from": "GSM8K train" if is_real else "generated",
        "model_identity": asdict(loaded.identity),
    }


def measure(side: str, shared: dict[str, Any], *, threads: int, steps: int | None = None, **more: Any) -> dict:
    """Run one side in fresh processes over all rows, or over those of the first `steps`, and return what it says.

    whet takes all rows of the recipe in its order, so it is cut by `train.max_steps`.
    """
    started = time.monotonic()
    job = {"seed": SEED, "adapter": LORA, "optim": OPTIM, "batch_rows": BATCH_ROWS, "threads": threads}
    job |= {k: shared[k] for k in ("first_adapter", "model", "data")} | more
    if side == "whet":
        job["train"] = {"save_every": 1_000_000} | ({"max_steps": steps} if steps else {})
        result = whet_side.run(job)
    else:
        result = _in_worker(job | {"rows": shared["rows"][: steps and steps * BATCH_ROWS]})
    return result | {
        "threads": threads, "ranks": job.get("ranks", 1), "wall_seconds": time.monotonic() - started,
        "load_average": os.getloadavg()[0],
    }  # fmt: skip


def _in_worker(job: dict[str, Any]) -> dict[str, Any]:
    variables = {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, __file__, "--worker"], input=json.dumps(job), env=os.environ | variables, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"TRL failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def say(name: str, run: dict[str, Any]) -> None:
    print(
        f"{name:34s} {run['ranks']} x {run['threads']} threads {run['tokens_per_second']:8.1f} tokens/s "
        f"{statistics.median(run['seconds_per_step']):7.2f} s/step {run['peak_memory_bytes'] / 1e9:6.2f} GB "
        f"padding {run['padding_share']:5.1%}  first loss {run['losses'][0]:.4f}  ({run['wall_seconds']:.0f} s)",
        flush=True,
    )


def try_settings(shared: dict[str, Any], threads: tuple[int, ...]) -> tuple[int, str, int, list[dict[str, Any]]]:
    """(threads of TRL's default, TRL's fastest settings, their threads, all trials), one measured step each.

    Candidates are tried at the most threads; default and the fastest one at the other counts too.
    """
    tried: list[dict[str, Any]] = []

    def attempt(name: str, count: int) -> None:
        settings = {} if name == "default" else BEST_CANDIDATES[name]
        run = measure("trl", shared, threads=count, steps=2, settings=settings)
        say(f"trial: TRL {name}", run)
        tried.append({"name": name, **run})

    def fastest(runs: list[dict[str, Any]]) -> dict[str, Any]:
        return max(runs, key=lambda run: run["tokens_per_second"])

    for name in ("default", *BEST_CANDIDATES):
        attempt(name, threads[0])
    best = fastest([run for run in tried if run["name"] != "default"])["name"]
    for count in threads[1:]:
        attempt("default", count)
        attempt(best, count)
    default_threads, best_threads = (
        fastest([run for run in tried if run["name"] == name])["threads"] for name in ("default", best)
    )
    return default_threads, best, best_threads, tried


def alternate(shared: dict[str, Any], rounds: int, sides: dict[str, dict[str, Any]]) -> dict[str, list]:
    """Every side once per round, in turn."""
    runs: dict[str, list] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, how in sides.items():
            run = measure(shared=shared, **how)
            say(name, run)
            runs[name].append(run)
    return runs


def whet_sides(cores: int, name: str, **more: Any) -> dict[str, dict[str, Any]]:
    """whet in one process with all cores and, where there are several, one rank per core."""
    one = {f"whet{name}, 1 process": {"side": "whet", "threads": cores, "dtype": "auto"} | more}
    if cores == 1:
        return one
    return one | {f"whet{name}, {cores} ranks": {"side": "whet", "threads": 1, "ranks": cores, "dtype": "auto"} | more}


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
        "ranks": runs[0]["ranks"],
        "losses": runs[0]["losses"],
        "load_averages": [r["load_average"] for r in runs],
        "configuration": runs[0]["configuration"],
    }


def ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """whet over TRL in tokens per second, round by round, and whet's share of TRL's peak memory."""
    each = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(ours, theirs, strict=True)]
    memory = [statistics.median(r["peak_memory_bytes"] for r in runs) for runs in (ours, theirs)]
    return {
        "median": statistics.median(each), "range": [min(each), max(each)], "runs": len(each),
        "peak_memory_share": memory[0] / memory[1],
    }  # fmt: skip


def loss_gaps(a: list[float], b: list[float]) -> list[float]:
    return [abs(x - y) for x, y in zip(a, b, strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="measured steps of 8 rows after the warm-up step")
    parser.add_argument("--pairs", type=int, default=5, help="rounds in which the sides alternate")
    parser.add_argument("--more-pairs", type=int, default=2, help="rounds of full fine-tuning and of dropout")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))), help="the most to use")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="built-in name or a folder")
    parser.add_argument("--quick", action="store_true", help="one round, one measured step; nothing is written")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        import trl_side

        print("\n" + json.dumps(trl_side.run(json.loads(sys.stdin.read()))))
        return
    steps, pairs, more_pairs = (1, 1, 1) if args.quick else (args.steps, args.pairs, args.more_pairs)
    threads = (args.threads, 1) if args.threads > 1 else (1,)
    with tempfile.TemporaryDirectory() as folder:
        shared = prepare_rows((steps + 1) * BATCH_ROWS, Path(folder), args.model)
        result = compare(shared, steps, (pairs, more_pairs), threads)
    if not args.quick:
        write_result("cpu_vs_trl", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


def compare(shared: dict[str, Any], steps: int, rounds: tuple[int, int], threads: tuple[int, ...]) -> dict[str, Any]:
    """All runs, their table and the object of the result file."""
    default_threads, best, best_threads, tried = try_settings(shared, threads)
    fastest = {"side": "trl", "threads": best_threads, "settings": BEST_CANDIDATES[best]}
    groups = [("TRL default", f"TRL best ({best})", "")]
    runs = alternate(shared, rounds[0], {
        "TRL default": {"side": "trl", "threads": default_threads, "settings": {}},
        f"TRL best ({best})": fastest,
        **whet_sides(threads[0], ""),
    })  # fmt: skip
    for name, adapter in ((" dropout 0.05", WITH_DROPOUT), (" full fine-tuning", FULL)):
        groups.append((f"TRL best{name}",) * 2 + (name,))
        # all weights in bfloat16 would not learn: TRL keeps float32 weights and computes in bfloat16, as whet does
        settings = fastest["settings"] | ({"model_init_kwargs": {"dtype": "float32"}} if adapter is FULL else {})
        runs |= alternate(shared, rounds[1], {
            f"TRL best{name}": fastest | {"settings": settings, "adapter": adapter},
            **whet_sides(threads[0], name, adapter=adapter),
        })  # fmt: skip
    float32 = {
        "TRL": measure("trl", shared, threads=threads[0], steps=min(3, steps + 1), settings=FLOAT32),
        "whet": measure("whet", shared, threads=threads[0], steps=min(3, steps + 1), dtype="float32"),
    }
    for name, run in float32.items():
        say(f"{name} float32", run)
    assert float32["TRL"]["num_tokens"] == float32["whet"]["num_tokens"], "both sides must count the same tokens"

    table = {
        f"{ours} over {theirs}": ratios(runs[ours], runs[theirs])
        for *them, name in groups
        for ours in whet_sides(threads[0], name)
        for theirs in dict.fromkeys(them)
    }
    gaps = {
        "whet (bfloat16 weights) against TRL default (float32 weights, bfloat16 autocast)": loss_gaps(
            runs["whet, 1 process"][0]["losses"], runs["TRL default"][0]["losses"]
        ),
        "whet float32 against TRL float32": loss_gaps(float32["whet"]["losses"], float32["TRL"]["losses"]),
    }
    for name, ratio in table.items():
        print(f"{name}: {ratio['median']:.2f}x ({ratio['range'][0]:.2f} to {ratio['range'][1]:.2f}), "
              f"{ratio['peak_memory_share']:.2f} of its memory")  # fmt: skip
    for name, gap in gaps.items():
        print(f"loss gap per step, {name}: " + " ".join(f"{g:.1e}" for g in gap))
    num_tokens = sum(len(row["input_ids"]) for row in shared["rows"])
    return {
        "model": shared["model_identity"],
        "rows": {"from": shared["rows_from"], "rows": len(shared["rows"]), "tokens": num_tokens,
                 "rows_per_step": BATCH_ROWS, "measured_steps": steps, "warm_up_steps": 1},
        "shared": {"adapter": LORA, "optim": OPTIM, "seed": SEED},
        "ratios": table,
        "loss_gaps": gaps,
        "sides": {name: summarize(each) for name, each in runs.items()},
        "trials": [{"settings": BEST_CANDIDATES.get(run["name"], {}), "name": run["name"], **summarize([run])}
                   for run in tried],
        "float32": {name: summarize([run]) for name, run in float32.items()},
    }  # fmt: skip


if __name__ == "__main__":
    main()
