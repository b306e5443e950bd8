"""What the three ladders on a GPU do in the same order: a layer against float32, products alone, rungs, the file."""

from __future__ import annotations

import time
from typing import Any

from gpu_side import climb, measure
from machine import write_result

GRADIENT_TOLERANCE = 0.03
"""relative L2 over all gradients of one layer against float32: bfloat16 leaves some thousandths for each product"""
FLOAT8_TOLERANCE = 0.2


def run_ladder(
    base: dict[str, Any], jobs: dict[str, dict[str, Any]], *, tokens_of_products: int, seconds: float
) -> dict[str, Any]:
    """All of it within `seconds`; rungs that do not fit are left out and say so."""
    ends = time.monotonic() + seconds
    checked = measure("gpu_rungs.py", base | {"kind": "check", "num_layers": 1, "rows_per_step": 4, "rows_per_pass": 4})
    print(f"one layer against float32: {checked}", flush=True)
    alone = measure("gpu_rungs.py", base | {"kind": "ceiling", "tokens": tokens_of_products})
    print(f"products alone: {alone}", flush=True)
    rows = climb(jobs, seconds=ends - time.monotonic())
    return {"check": checked | {"passed": is_right(checked)}, "ceiling": alone, "rungs": rows, **ratios(rows)}


def is_right(checked: dict[str, Any]) -> bool:
    """Whether gradients are near float32's; what is not finite is not."""
    if "error" in checked:
        return False
    limits = {"whet": GRADIENT_TOLERANCE, "whet, float8 base": FLOAT8_TOLERANCE}
    return all(checked[name]["gradient_error"] <= limit for name, limit in limits.items() if name in checked)


def ratios(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every rung's rate over that of the first and over TRL's, where they were measured."""
    rates = {row["rung"]: row["tokens_per_second"] for row in rows if "error" not in row}
    against = [name for name in rates if name == rows[0]["rung"] or name.startswith("TRL")]
    return {"times_faster_than": {other: {n: rate / rates[other] for n, rate in rates.items()} for other in against}}


def finish(name: str, page: str, result: dict[str, Any], *, is_toy: bool) -> None:
    """Write the result of a GPU; exit code 1 when the check failed."""
    if not is_toy:
        write_result(name, claim=page.splitlines()[0].removeprefix("Claim: "), result=result)
    if not result["check"]["passed"]:
        raise SystemExit("gradients are not those of float32")
