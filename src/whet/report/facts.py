"""What stands at the head of a run, for the report, the web page and a pull request alike."""

from __future__ import annotations

import math
import shlex

from whet.report.metrics_log import finite
from whet.report.run_folder import RunView


def status_of(run: RunView) -> str:
    """As the summary has it."""
    return str(run.summary.get("status") or "no summary yet: still running, or ended without one")


def subtitle(run: RunView) -> list[str]:
    """Model, steps and time."""
    parts = [str(run.model.get("id", ""))]
    if run.steps:
        total = finite(run.plan.get("total_steps"))
        parts.append(f"step {run.steps[-1].step:,}" + (f" of {total:,.0f}" if total else ""))
    seconds = finite(run.summary.get("seconds"))
    if seconds is not None:
        parts.append(duration(seconds))
    return [part for part in parts if part]


def facts(run: RunView) -> list[tuple[str, str]]:
    """Headline numbers, each only if the run recorded it."""
    losses = [point.loss for point in run.steps if point.loss is not None]
    speed, tokens, peak = (
        finite(run.summary.get(name)) for name in ("tokens_per_second", "tokens", "peak_memory_bytes")
    )
    found = []
    if losses:
        found.append(("Training loss", f"{losses[0]:.3f} to {losses[-1]:.3f}"))
    validation = [(point.step, point.loss) for point in run.evals if point.loss is not None]
    if validation:
        step, loss = min(validation, key=lambda point: point[1])
        found.append(("Lowest validation loss", f"{loss:.3f} at step {step:,}"))
    if tokens is not None:
        found.append(("Tokens trained on", f"{tokens:,.0f}"))
    if speed is not None:
        found.append(("Tokens per second", f"{speed:,.0f}"))
    if (mfu := finite(run.summary.get("mfu"))) is not None:
        found.append(("Model FLOPs utilisation", f"{100 * mfu:.1f} %"))
    if peak is not None:
        found.append(("Peak memory", f"{peak / 2**30:.2f} GiB"))
    return found


def commands(run: RunView) -> str:
    """What to type to get the run again, line by line."""
    version = run.environment.get("whet")
    folder = shlex.quote(run.folder_name)
    lines = [f"pip install {shlex.quote(f'whet=={version}')}"] if version else []
    if run.recipe:
        lines.append("whet train recipe.yaml")
    if run.evaluations:
        lines.append(f"whet compare {folder}")
    lines.append(f"whet report {folder}")
    if run.recipe and run.steps:
        lines.append(f"whet reproduce {folder}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `2 h 5 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = math.floor(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
