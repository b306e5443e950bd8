"""An estimate for programs: the same numbers as in the text, in bytes and seconds; what is not known is null."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from whet.cli.estimate_inputs import Seen
from whet.estimate.disk import num_checkpoints
from whet.estimate.memory_words import formula
from whet.estimate.time import ASSUMED_SHARES
from whet.models.families import num_parameters
from whet.train.fit_memory import Proposal

if TYPE_CHECKING:
    from whet.train.measured_steps import Measured


def estimate_json(
    seen: Seen, *, price: float | None, measured: Measured | None, proposal: Proposal | None
) -> dict[str, Any]:
    """Every number of the estimate by its name."""
    now, target = seen.foreseen, seen.foreseen.target
    return {
        "name": seen.recipe.name,
        "model": seen.recipe.model.id,
        "num_base": num_parameters(now.shape),
        "num_trainable": now.job.num_trainable,
        "target": {
            "name": target.name, "device": target.device, "count": target.num_ranks,
            "memory_bytes": target.memory_bytes, "source": target.gpu.source if target.gpu else None,
        },
        "step": {
            "global_batch": now.plan.global_batch, "micro_batch": now.plan.micro_batch,
            "accumulation": now.plan.accumulation, "recompute": now.plan.recompute,
            "largest_pass_tokens": now.largest.tokens, **asdict(now.shares),
        },
        "memory": {
            "bytes_per_rank": now.peak_bytes, "bytes_of_all_ranks": now.peak_bytes * target.num_ranks,
            "training_bytes": now.training_bytes, "loading_bytes": now.loading_bytes, "fits": now.fits,
            "parts": {name: {"bytes": size, "formula": part_words(seen, name)} for name, size in now.parts.items()},
        },
        "time": time_json(seen, price=price, measured=measured),
        "checkpoints": checkpoints_json(seen, measured=measured),
        "disk": asdict(now.disk) | {"checkpoints_kept": seen.recipe.train.keep},
        "measured": measured and {
            "pass_seconds": measured.calibration.pass_seconds, "update_seconds": measured.calibration.update_seconds,
            "num_steps": measured.calibration.num_steps,
            "operations_per_second": measured.calibration.operations_per_second, "peak_bytes": measured.peak_bytes,
            "planned_bytes": measured.plan.predicted_memory_bytes,
        },
        "fit": proposal and proposal_json(proposal),
        "notes": list(now.rows.notes),
    }  # fmt: skip


def part_words(seen: Seen, part: str) -> str:
    """The formula of a part of the peak in words."""
    now = seen.foreseen
    return formula(part, now.job, now.largest, now.plan.recompute, num_shards=now.shares.num_shards)


def time_json(seen: Seen, *, price: float | None, measured: Measured | None) -> dict[str, Any]:
    """Seconds of a step and of all, tokens, cost; least and most."""
    now = seen.foreseen
    seconds = now.step_seconds(measured.calibration if measured else None)
    total = seconds and [each * now.plan.total_steps for each in seconds]
    hours = total and [now.target.num_ranks * each / 3600 for each in total]
    return {
        "num_steps": now.plan.total_steps,
        "at_most": seen.recipe.train.fit_seconds is not None,
        "num_tokens": round(now.num_tokens),
        "tokens_per_step": round(now.tokens_per_step),
        "is_measured": measured is not None,
        "assumed_share_of_peak": list(ASSUMED_SHARES) if seconds and measured is None else None,
        "seconds_per_step": seconds and list(seconds),
        "seconds": total,
        "device_hours": hours,
        "price_per_device_hour": price,
        "cost": [each * price for each in hours] if hours and price is not None else None,
    }


def checkpoints_json(seen: Seen, *, measured: Measured | None) -> dict[str, Any]:
    """How many are written by the plan, and what they add to the time of the steps, where the disk was tried."""
    now = seen.foreseen
    found: dict[str, Any] = {"num": num_checkpoints(now.plan), "bytes": now.disk.checkpoint_bytes}
    if measured is None or measured.saves is None:
        return found | {"write_seconds": None, "seconds_each": None, "seconds": None}
    least, most = measured.saves.waits(now.disk.checkpoint_bytes, measured.calibration.step_seconds(now.work))
    return found | {
        "write_seconds": now.disk.checkpoint_bytes * measured.saves.write_seconds,
        "seconds_each": [least, most],
        "seconds": [found["num"] * least, found["num"] * most],
    }


def proposal_json(proposal: Proposal) -> dict[str, Any]:
    """The changes of a proposal, and what is needed with them."""
    return {
        "limit_bytes": proposal.limit_bytes,
        "fits": proposal.fits,
        "bytes_per_rank": proposal.foreseen.peak_bytes,
        "changes": [asdict(step) for step in proposal.steps],
    }
