"""Claim: on two CPU cores two ranks of one thread train as fast as one process of two threads, with the same losses.

SmolLM2-135M, LoRA of rank 8 on all linear layers, 8 rows a step, `whet train` with its defaults on three sides: one
rank on each core (gloo on the loopback, one all-reduce a step); one process on all cores, which runs two passes at a
time by default; and the same process with one pass at a time, as many rows in it as the two have together. The sides
take turns, in the opposite order every other round; every run is processes of its own; the first step is not measured.

Rows are GSM8K when WHET_TEST_DATA names a folder with them, else generated problems.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import whet_side
from machine import write_result
from training_side import gsm8k_source
from whet.estimate.network import ring_bytes
from whet.estimate.traffic import num_numbers

SEED = 42
ADAPTER = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"}
OPTIM = {"lr": 2e-4, "schedule": "constant", "warmup": 0, "weight_decay": 0.0, "max_grad_norm": 1.0}
ROWS_PER_STEP = 8
RANKS, TWO_PASSES, ONE_PASS = "one rank a core", "one process, two passes at a time", "one process, one pass at a time"
FLOAT32_BYTES = 4


def job_of(args: argparse.Namespace, num_steps: int) -> dict[str, Any]:
    """What all sides have in common."""
    source = gsm8k_source(ROWS_PER_STEP * num_steps)
    return {
        "seed": SEED, "adapter": ADAPTER, "optim": OPTIM, "batch_rows": ROWS_PER_STEP, "model": args.model,
        "dtype": args.dtype, "data": {"train": [source], "max_length": 1024},
        "train": {"save_every": 1_000_000},
    }  # fmt: skip


def measure(job: dict[str, Any], **how: Any) -> dict[str, Any]:
    """One run, with the load of the machine before it."""
    load, started = os.getloadavg()[0], time.monotonic()
    run = whet_side.run(job | how)
    return run | {"load_average": load, "wall_seconds": time.monotonic() - started}


def sides_of(cores: int, rows_at_a_time: int) -> dict[str, dict[str, Any]]:
    """How each side is run; the defaults come first and say how many rows fit at a time."""
    return {
        TWO_PASSES: {"ranks": 1, "threads": cores},
        RANKS: {"ranks": cores, "threads": 1},
        ONE_PASS: {"ranks": 1, "threads": cores, "batch": {"micro_size": rows_at_a_time}},
    }


def alternate(job: dict[str, Any], cores: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Every side once a round, every other round backwards."""
    sides = sides_of(cores, ROWS_PER_STEP)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            run = measure(job, **sides[name])
            runs[name].append(run)
            plan = run["configuration"]["plan"]
            if number == 0 and name == TWO_PASSES:
                sides = sides_of(cores, plan["micro_batch"] * plan["num_lanes"])
            print(
                f"{name:34s} {run['tokens_per_second']:8.1f} tokens/s  {plan['num_lanes']} x {plan['micro_batch']} rows"
                f" a pass, communication {statistics.median(run['communication_seconds']):.4f} s a step,"
                f" {run['peak_memory_bytes'] / 1e9:.2f} GB  ({run['wall_seconds']:.0f} s)",
                flush=True,
            )
    return runs


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A middle and a spread."""
    rates = [run["tokens_per_second"] for run in runs]
    plan = runs[0]["configuration"]["plan"]
    return {
        "runs": len(runs),
        "ranks": runs[0]["configuration"]["ranks"],
        "threads": plan["num_threads"],
        "passes_at_a_time": plan["num_lanes"],
        "rows_per_pass": plan["micro_batch"],
        "median_tokens_per_second": statistics.median(rates),
        "range_tokens_per_second": [min(rates), max(rates)],
        "median_seconds_per_step": statistics.median(s for run in runs for s in run["seconds_per_step"]),
        "median_communication_seconds": statistics.median(s for run in runs for s in run["communication_seconds"]),
        "median_peak_memory_bytes": statistics.median(run["peak_memory_bytes"] for run in runs),
        "losses": runs[0]["losses"],
        "load_averages": [run["load_average"] for run in runs],
    }


def ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Tokens per second of one side over another's, round by round."""
    each = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(each), "range": [min(each), max(each)], "runs": len(each)}


def compare(args: argparse.Namespace, cores: int, num_steps: int, rounds: int) -> dict[str, Any]:
    """All runs and the object of the result file."""
    job = job_of(args, num_steps)
    runs = alternate(job, cores, rounds)
    table = {f"{RANKS} over {other}": ratios(runs[RANKS], runs[other]) for other in (TWO_PASSES, ONE_PASS)}
    for name, ratio in table.items():
        print(f"{name}: {ratio['median']:.2f}x ({ratio['range'][0]:.2f} to {ratio['range'][1]:.2f})")
    losses = {name: each[0]["losses"] for name, each in runs.items()}
    gaps = {
        name: max(abs(a - b) for a, b in zip(losses[RANKS], each, strict=True))
        for name, each in losses.items()
        if name != RANKS
    }
    print("largest gap of losses: " + ", ".join(f"{gap:.1e} ({name})" for name, gap in gaps.items()))
    payload = FLOAT32_BYTES * (runs[RANKS][0]["num_trainable"] + num_numbers(cores))
    return {
        "model": args.model,
        "rows": {"from": job["data"]["train"][0]["source"].split("/")[-1], "rows_per_step": ROWS_PER_STEP,
                 "measured_steps": num_steps - 1, "warm_up_steps": 1},
        "shared": {"adapter": ADAPTER, "optim": OPTIM, "seed": SEED},
        "ratios": table,
        "largest_loss_gaps": gaps,
        "computed_bytes_sent_per_rank_and_step": ring_bytes("all_reduce", payload, cores),
        "sides": {name: summarize(each) for name, each in runs.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of 8 rows after the warm-up step")
    parser.add_argument("--rounds", type=int, default=6, help="rounds in which the sides take turns")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="built-in name or a folder")
    parser.add_argument("--dtype", default="auto", help="of the frozen weights")
    parser.add_argument("--toy", action="store_true", help="one round, one measured step; nothing is written")
    args = parser.parse_args()
    cores = min(2, len(os.sched_getaffinity(0)))
    if cores < 2:
        raise SystemExit("this comparison needs two cores")
    num_steps, rounds = (2, 1) if args.toy else (args.steps + 1, args.rounds)
    result = compare(args, cores, num_steps, rounds)
    if not args.toy:
        write_result("ranks_vs_threads", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


if __name__ == "__main__":
    main()
