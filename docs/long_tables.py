"""The tables of docs/reliability.md that `make fuzz` and `make soak` fill."""

from __future__ import annotations

from typing import Any

_ENGINES = ("mutation", "hypothesis", "atheris")


def fuzz_table(result: dict[str, Any]) -> str:
    """Every parser with the inputs it read."""
    lines = [
        f"{result['num_inputs']:,} inputs, {result['num_faults']} faults; seed {result['seed']}, by "
        f"{', '.join(result['engines'])}.",
        "",
        f"| what is read | {' | '.join(_ENGINES)} | slowest, ms | faults |",
        "|---" * (len(_ENGINES) + 3) + "|",
    ]
    for target in result["targets"].values():
        counts = " | ".join(f"{target['by_engine'].get(engine, 0):,}" for engine in _ENGINES)
        lines.append(f"| {target['reads']} | {counts} | {target['slowest_ms']:.0f} | {len(target['faults'])} |")
    return "\n".join(lines)


def soak_table(result: dict[str, Any]) -> str:
    """The run that was killed beside the one that was left alone."""
    both = (result["disturbed"], result["alone"])
    rows = {
        "steps": [f"{each['steps']:,}" for each in both],
        "processes": [str(each["processes"]) for each in both],
        "every step once in the log": ["yes" if each["is_log_whole"] else "NO" for each in both],
        "steps made again, at most, after a kill": [str(each["most_steps_redone"]) for each in both],
        "memory, MB per 1,000 steps": [f"{each['mb_per_1000_steps']:+.2f}" for each in both],
        "memory, MB": [" to ".join(f"{mb:,.0f}" for mb in each["rss_mb"]) for each in both],
        "open files": [_span(each["open_files"]) for each in both],
        "threads": [_span(each["threads"]) for each in both],
        "checkpoints at a time, at most": [str(each["most_checkpoints"]) for each in both],
        "run folder without its log, MB, at most": [f"{each['most_disk_mb']:.1f}" for each in both],
        "log, bytes per step": [f"{each['log_bytes_per_step']:.0f}" for each in both],
        "seconds": [f"{each['seconds']:,.0f}" for each in both],
    }
    lines = ["| | killed and continued | left alone |", "|---|---|---|"]
    lines += [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]
    equal = "the same SHA-256 sums" if result["is_equal"] else "OTHER weights or moments"
    return "\n".join([*lines, "", f"Both ended with {equal}."])


def _span(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
