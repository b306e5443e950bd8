"""Claim: on one CPU core tokens/s fall with sequence length, rows per pass and rank only where the reason is known.

SmolLM2-135M with LoRA on all linear layers, made-up rows of equal length, one thread, one process, one table: rows of
128 to 8,192 tokens; 1 to 32 rows of 128 tokens per pass; ranks 4 to 128. Every point is the fastest of its measured
steps after one that is not measured, and one more step of it is profiled.

A point is a cliff when it lies more than 25 % below the trend of its neighbours in the table: their geometric mean; at
an end the line through the two nearest, and no more than the nearest. Its explanation is computed: which parts of a
step take more time for each token than they do at the neighbour that is faster.
"""

from __future__ import annotations

import argparse
import gc
import math
from typing import Any

import torch

import training_side
from machine import peak_memory_bytes, write_result

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
ROWS_PER_PASS = (1, 2, 4, 8, 16, 32)
RANKS = (4, 8, 16, 64, 128)
TOKENS_PER_PASS = 2048
CLIFF = 0.75


def points() -> dict[str, list[dict[str, int]]]:
    """What is varied, and the settings of each point."""
    fixed = {"length": 256, "rows": TOKENS_PER_PASS // 256, "rank": 8}
    return {
        "length": [fixed | {"length": n, "rows": max(1, TOKENS_PER_PASS // n)} for n in LENGTHS],
        "rows": [fixed | {"length": 128, "rows": n} for n in ROWS_PER_PASS],
        "rank": [fixed | {"rank": n} for n in RANKS],
    }


def measure(model: str, point: dict[str, int], num_steps: int) -> dict[str, Any]:
    """Tokens per second of one point, and where one of its steps spends its time for each token."""
    recipe = training_side.recipe_of(
        model, rank=point["rank"], rows_per_step=point["rows"], rows_per_pass=point["rows"], max_length=max(LENGTHS)
    )
    run, _ = training_side.build(recipe, rows=[point["length"]] * point["rows"] * (num_steps + 2))
    records = training_side.run_steps(run, range(num_steps + 1))
    profile = training_side.profiled(lambda: training_side.run_steps(run, [num_steps + 1]))
    fastest = min(records[1:], key=lambda record: record.seconds)
    parts = {name: share * fastest.seconds for name, share in profile["shares"].items()}
    parts["the rest"] = max(0.0, fastest.seconds - sum(parts.values()))
    return point | {
        "tokens_per_second": fastest.num_tokens / fastest.seconds,
        "share_of_products": profile["share_of_products"],
        "microseconds_per_token": {name: 1e6 * seconds / fastest.num_tokens for name, seconds in parts.items()},
        "peak_memory_bytes_so_far": peak_memory_bytes(),
    }


def trend(rates: list[float], i: int) -> float:
    """What the neighbours of point i lead to expect."""
    last = len(rates) - 1
    if 0 < i < last:
        return math.sqrt(rates[i - 1] * rates[i + 1])
    near, far = (1, 2) if i == 0 else (last - 1, last - 2)
    return min(rates[near], rates[near] ** 2 / rates[far])


def explain(point: dict[str, Any], faster: dict[str, Any]) -> str:
    """The parts that make a token of `point` dearer than one of `faster`, the largest first."""
    more = {
        name: time - faster["microseconds_per_token"][name] for name, time in point["microseconds_per_token"].items()
    }
    total = sum(point["microseconds_per_token"].values())
    whole = total - sum(faster["microseconds_per_token"].values())
    reasons = sorted((name for name in more if more[name] > 0), key=lambda name: -more[name])[:3]
    told = "; ".join(
        f"{name} takes {more[name]:.0f} of them ({point['microseconds_per_token'][name] / total:.0%} of the step, "
        f"{faster['microseconds_per_token'][name] / sum(faster['microseconds_per_token'].values()):.0%} there)"
        for name in reasons
    )
    return f"{whole:.0f} microseconds more for each token than at the faster neighbour: {told}"


def mark_cliffs(series: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The series with `trend_tokens_per_second`, `is_cliff` and, for a cliff, `explanation`."""
    rates = [point["tokens_per_second"] for point in series]
    marked = []
    for i, point in enumerate(series):
        is_cliff = len(series) > 2 and rates[i] < CLIFF * trend(rates, i)
        neighbours = [series[k] for k in (i - 1, i + 1) if 0 <= k < len(series)]
        faster = max(neighbours, key=lambda each: each["tokens_per_second"], default=point)
        marked.append(point | {
            "trend_tokens_per_second": trend(rates, i) if len(series) > 2 else None,
            "is_cliff": is_cliff,
            "explanation": explain(point, faster) if is_cliff else None,
        })  # fmt: skip
    return marked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="measured steps of every point")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="built-in name or a folder")
    parser.add_argument("--quick", action="store_true", help="three points each, one step; nothing is written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    for varied, series in points().items():
        measured = []
        for point in series[:3] if args.quick else series:
            found = measure(args.model, point, 1 if args.quick else args.steps)
            gc.collect()
            measured.append(found)
            print(f"{varied:8s} {point[varied]:6d} {found['tokens_per_second']:9.1f} tokens/s", flush=True)
        table[varied] = mark_cliffs(measured)
    for varied, series in table.items():
        for point in series:
            if point["is_cliff"]:
                print(f"cliff at {varied} {point[varied]}: {point['explanation']}")
    if not args.quick:
        result = {"tokens_per_pass": TOKENS_PER_PASS, "cliff_below": CLIFF, "threads": 1, "series": table}
        write_result("cpu_scaling", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


if __name__ == "__main__":
    main()
