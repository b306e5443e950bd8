"""An estimate for people: memory by component with its formula in words, time, tokens, cost, disk, what is assumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from whet.cli.estimate_inputs import Seen
from whet.cli.estimate_json import checkpoints_json, part_words, time_json
from whet.estimate.devices import CONTEXT_BYTES, USABLE_SHARE
from whet.estimate.time import ASSUMED_SHARES
from whet.models.families import num_parameters
from whet.train.fit_memory import Proposal

if TYPE_CHECKING:
    from whet.train.measured_steps import Measured

_INDENT = " " * 15


def estimate_lines(
    seen: Seen, *, price: float | None, measured: Measured | None, proposal: Proposal | None
) -> Iterator[str]:
    """Lines in reading order."""
    now = seen.foreseen
    target = now.target
    yield _line("run", f"{seen.recipe.name} on {target.num_ranks} x {target.name}")
    what = "all train" if now.job.trains_all else f"{now.job.num_trainable:,} of an adapter train"
    yield _line("model", f"{seen.recipe.model.id}: {num_parameters(now.shape):,} weights, {what}")
    yield _line("step", _step(seen))
    yield ""
    yield from _memory(seen)
    yield ""
    yield from _time(seen, price=price, measured=measured)
    yield _line("disk", _disk(seen))
    yield ""
    for note in (*now.rows.notes, *_assumptions(seen, is_measured=measured is not None)):
        yield _line("rests on", note)
    if measured is not None:
        yield _line("measured", _measured(measured))
    if proposal is not None:
        yield ""
        yield from proposal_lines(proposal)


def _line(label: str, text: str) -> str:
    return f"{label:<13}  {text}"


def _step(seen: Seen) -> str:
    now = seen.foreseen
    plan, shares = now.plan, now.shares
    unit = seen.recipe.batch.unit
    tensor = f" of {shares.num_tensor_ranks} ranks that share layers" if shares.num_tensor_ranks > 1 else ""
    one = "group" if tensor else "rank"
    ranks = f" x {plan.world_size} {one}{'s' if plan.world_size != 1 else ''}{tensor}"
    cut = f"{plan.global_batch} {unit} = {plan.micro_batch} a pass x {plan.accumulation} passes{ranks}"
    anew = "no recompute" if plan.recompute == "none" else f"recompute {plan.recompute}"
    parts = "weights whole on every rank" if shares.num_shards == 1 else f"weights in {shares.num_shards} parts"
    return f"{cut}; up to {now.largest.tokens:,} tokens a pass; {anew}; {parts} ({shares.strategy})"


def _memory(seen: Seen) -> Iterator[str]:
    now = seen.foreseen
    yield _line("memory", f"{size(now.peak_bytes)} of each {_device_word(seen)}{_of_what(seen)}")
    for name, num_bytes in now.parts.items():
        if num_bytes:
            yield f"  {name:<11}  {size(num_bytes):>9}  {part_words(seen, name)}"
    if now.loading_bytes is not None and now.loading_bytes > now.training_bytes:
        words = f"{part_words(seen, 'loading')}; more than training holds"
        yield f"  {'loading':<11}  {size(now.loading_bytes):>9}  {words}"
    if now.target.num_ranks > 1:
        yield f"  {'all ranks':<11}  {size(now.peak_bytes * now.target.num_ranks):>9}"


def _device_word(seen: Seen) -> str:
    return "GPU" if seen.foreseen.target.device == "cuda" else "process"


def _of_what(seen: Seen) -> str:
    now = seen.foreseen
    if now.target.memory_bytes is None:
        return ""
    free = " free" if now.target.device == "cpu" else ""
    verdict = "fits" if now.fits else "does not fit: see --fit"
    return f" at the peak, of {size(now.target.memory_bytes)}{free}: {verdict}"


def _time(seen: Seen, *, price: float | None, measured: Measured | None) -> Iterator[str]:
    found = time_json(seen, price=price, measured=measured)
    most = "at most " if found["at_most"] else ""
    steps = f"{most}{found['num_steps']:,} steps"
    yield _line("tokens", f"{found['num_tokens']:,} in {steps} of about {found['tokens_per_step']:,}")
    if found["seconds_per_step"] is None:
        yield _line("time", f"not known here: {steps}; --measure makes a few real ones, --gpu takes a data sheet")
        return
    a_step, total = _range(found["seconds_per_step"]), _range(found["seconds"])
    how = _how(seen, measured)
    yield _line("time", f"{a_step} a step, {total} for {steps} ({how}), besides start, evaluation and checkpoints")
    yield _line("checkpoints", most + _checkpoints(seen, measured))
    if found["cost"] is not None:
        least, dear = found["cost"]
        shown = f"{least:,.2f}" if f"{least:,.2f}" == f"{dear:,.2f}" else f"{least:,.2f} to {dear:,.2f}"
        hours = f"{found['device_hours'][0]:,.3g} to {found['device_hours'][1]:,.3g}"
        yield _line("cost", f"{shown} for {hours} device-hours at {price:g} each")


def _how(seen: Seen, measured: Measured | None) -> str:
    if measured is not None:
        return f"from {measured.calibration.num_steps} steps measured here"
    low, high = ASSUMED_SHARES
    return f"NOT measured on a GPU: {low:.0%} to {high:.0%} of the data sheet's peak, assumed"


def _checkpoints(seen: Seen, measured: Measured | None) -> str:
    found = checkpoints_json(seen, measured=measured)
    count = f"{found['num']:,} of {size(found['bytes'])}"
    if found["seconds"] is None:
        return f"{count}; what training waits for them was not measured"
    each, total = _range(found["seconds_each"]), _range(found["seconds"])
    written = _duration(found["write_seconds"])
    return f"{count}, each written in {written} beside a step: {each} longer each, {total} in all"


def _disk(seen: Seen) -> str:
    disk, keep = seen.foreseen.disk, seen.recipe.train.keep
    what = "model" if seen.recipe.adapter.method == "none" else "adapter"
    kept = "checkpoint is" if keep == 1 else "checkpoints are"
    each = f"one checkpoint {size(disk.checkpoint_bytes)} ({keep} {kept} kept, and the best)"
    return f"{size(disk.run_bytes)} in all: {each}, the final {what} {size(disk.final_bytes)}, 10 % slack"


def _assumptions(seen: Seen, *, is_measured: bool) -> Iterator[str]:
    target = seen.foreseen.target
    if target.device == "cuda":
        yield (
            f"a run may fill {USABLE_SHARE:.0%} of a GPU, {size(CONTEXT_BYTES)} of it driver and kernels (assumed); "
            "memory on a GPU was not measured"
        )
    if (gpu := target.gpu) is not None and not is_measured:
        rates = f"{gpu.flops / 1e12:,.0f} TFLOP/s in bfloat16, {gpu.memory_bytes_per_second / 1e12:.3g} TB/s"
        yield f"{rates}, {gpu.link}: {gpu.source}"


def _measured(measured: Measured) -> str:
    calibration = measured.calibration
    planned = measured.plan.predicted_memory_bytes
    foretold = f", {size(planned)} were planned for the whole run" if planned is not None else ""
    rate = (
        f"{calibration.pass_seconds:.3g} s for the passes of a step, {calibration.operations_per_second / 1e9:,.0f} "
        f"GFLOP/s, and {calibration.update_seconds:.3g} s for its update"
    )
    return f"{rate}; {size(measured.peak_bytes)} held at the peak, without moments and checkpoint{foretold}"


def proposal_lines(proposal: Proposal) -> Iterator[str]:
    """What to change, in the order in which it should be tried."""
    now = proposal.foreseen
    limit, needs = size(proposal.limit_bytes), size(now.peak_bytes)
    if not proposal.steps:
        yield _line("fit", f"{needs} of {limit}: {'fits as it is' if proposal.fits else 'nothing helps'}")
        return
    ends = "" if proposal.fits else ", which is still too much: a smaller model, or more devices that share it"
    yield _line("fit", f"{needs} of {limit} with{ends}:")
    for step in proposal.steps:
        kind = "CHANGES THE RESULT" if step.changes_result else "only the speed"
        yield f"{_INDENT}{step.change:<28} saves {size(step.saved_bytes):>9}  {kind}: {step.effect}"
    yield _line("", "give these to whet train behind the recipe, or write them into it")


def size(num_bytes: float) -> str:
    """`1.25 GB`, `340 MB`."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"


def _range(seconds: list[float]) -> str:
    least, most = (_duration(each) for each in seconds)
    return least if least == most else f"{least} to {most}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
