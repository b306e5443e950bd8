"""Claim: the order of ten million rows, packed or not, takes seconds an epoch and a few dozen bytes for each row.

Made-up lengths of 16 to 2,047 tokens in 16 bits, a global batch of 512 on 64 ranks; no text and no tokens. Each case is
a process of its own on one core: seconds of processor time until the first epoch is planned, until the next one is, and
of a step in between; and how far the resident memory rises above what the process and the lengths take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from machine import peak_memory_bytes, write_result

CASES: dict[str, dict[str, Any]] = {
    "samples": {},
    "two sources, mixed evenly": {"weights": (1.0, 1.0)},
    "packs of 2,048 tokens": {"unit": "packs", "capacity": 2048},
    "packs of 8,192 tokens": {"unit": "packs", "capacity": 8192},
}
GLOBAL_BATCH, WORLD_SIZE = 512, 64
NUM_STEPS = 100


def measure(name: str, num_rows: int) -> dict[str, Any]:
    """One case, in this process."""
    from whet.data.sampler import Order
    from whet.recipe.resolve import resolve
    from whet.recipe.schema import Batch, Data, Recipe, Source

    lengths = np.random.default_rng(0).integers(16, 2048, num_rows, dtype=np.uint16)
    settings = dict(CASES[name])
    if "weights" in settings:
        settings["source_sizes"] = (num_rows // 4, num_rows - num_rows // 4)
    before = peak_memory_bytes()
    started = time.process_time()
    order = Order(lengths, seed=1, **settings)
    first_seconds = time.process_time() - started
    data = Data(train=(Source(source="rows.jsonl"),))
    recipe = Recipe(name="rows", output="none", data=data, batch=Batch(global_size=GLOBAL_BATCH))
    plan = resolve(recipe, world_size=WORLD_SIZE, num_samples=order.num_units)
    step_seconds = []
    for step in range(min(NUM_STEPS, plan.steps_per_epoch)):
        started = time.process_time()
        order.step(plan, step)
        step_seconds.append(time.process_time() - started)
    started = time.process_time()
    order.step(plan, plan.steps_per_epoch)
    return {
        "case": name,
        "rows": num_rows,
        "units": order.num_units,
        "first_epoch_seconds": first_seconds,
        "next_epoch_seconds": time.process_time() - started,
        "median_step_seconds": statistics.median(step_seconds),
        "peak_bytes_per_row": (peak_memory_bytes() - before) / num_rows,
        "bytes_per_row_of_lengths": lengths.itemsize,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--toy", action="store_true", help="ten thousand rows; nothing is written")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.rows)))
        return
    num_rows = 10_000 if args.toy else args.rows
    found = []
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, "--rows", str(num_rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        print(
            f"{name:28s} {found[-1]['units']:12,d} units {found[-1]['first_epoch_seconds']:7.2f} s, next epoch "
            f"{found[-1]['next_epoch_seconds']:7.2f} s, step {1e3 * found[-1]['median_step_seconds']:6.2f} ms, "
            f"{found[-1]['peak_bytes_per_row']:6.1f} bytes/row at the peak",
            flush=True,
        )
    if not args.toy:
        result = {"rows": num_rows, "global_batch": GLOBAL_BATCH, "world_size": WORLD_SIZE, "cases": found}
        write_result("many_rows", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


if __name__ == "__main__":
    main()
