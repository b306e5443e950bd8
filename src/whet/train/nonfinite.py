"""Who is at fault when the loss or a gradient of a step is not finite: rows, trained weights or the base; and where.

The step's passes are computed again one by one, those that fail row by row, with the same weights and the same dropout
masks; the first row that fails goes through the model once more, watched. Nothing is updated. Each rank looks at its
own rows and all of them hear what each one found; where ranks share the weights, they take part in each other's passes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from whet.data.packing import fill_turn, pack, to_device
from whet.data.step_rows import StepRows, sample_id
from whet.errors import NonFiniteError
from whet.parallel.reduce import any_over_ranks, gather_texts
from whet.train.first_bad import Place, Watch, broken_names, own_part
from whet.types import PackedBatch

if TYPE_CHECKING:
    from whet.train.loop import Training

NUM_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a look at one step found. Invariant: the same on all ranks."""

    blame: Literal["base", "weights", "rows", "nothing"]
    """`nothing`: computed again, every pass by itself is finite"""
    tensors: tuple[str, ...] = ()
    """names of weights that were not finite before the step"""
    sample_ids: tuple[str, ...] = ()
    """whose passes fail, in the order of the step"""
    place: str = ""
    """a sentence about the first offending module"""


def find(run: Training, taken: StepRows) -> Finding:
    """Look at the step that `taken` was read for; all ranks must call it, and gradients are gone afterwards."""
    frozen = (each for each in _all_tensors(run) if not each[1].requires_grad)
    own: dict[str, Any] = {
        "base": broken_names(frozen),
        "weights": broken_names(run.trainables.named.items()),
        **_bad_rows(run, taken),
    }
    said = [json.loads(text) for text in gather_texts(json.dumps(own), is_patient=True)]
    ids = {each for found in said for each in found["ids"]}
    places = [(rank, found["place"]) for rank, found in enumerate(said) if found["place"]]
    blame: Literal["base", "weights", "rows", "nothing"] = "rows" if ids else "nothing"
    tensors: tuple[str, ...] = ()
    for kind in ("base", "weights"):
        if not tensors and (names := tuple(dict.fromkeys(n for found in said for n in found[kind]))):
            blame, tensors = kind, names
    place = ""
    if places:
        rank, found_there = places[0]
        place = Place(**found_there).sentence() + (f", on rank {rank}" if len(said) > 1 else "")
    in_order = tuple(dict.fromkeys(each for each in taken.sample_ids if each in ids))
    return Finding(blame=blame, tensors=tensors, sample_ids=in_order, place=place)


def error_of(taken: StepRows, reason: str, finding: Finding | None) -> NonFiniteError:
    """What ends the run: the step and `reason`, whose fault it is, and what to do; of a spike nothing was found."""
    what = f"step {taken.step + 1}: {reason}; stopped before the update"
    if finding is None:
        return NonFiniteError(what, where=_named(taken.sample_ids), mend="lower optim.lr, or look at these rows")
    words, mend = _words(taken, finding)
    return NonFiniteError(
        "\n  ".join(each for each in (what, words, finding.place) if each),
        where=_named(finding.sample_ids),
        mend=mend,
    )


def _named(sample_ids: Sequence[str]) -> str | None:
    """`samples a, b and 3 more`; None where there are none."""
    if not sample_ids:
        return None
    num_more = len(sample_ids) - NUM_SHOWN
    more = f" and {num_more} more" if num_more > 0 else ""
    return f"samples {', '.join(sample_ids[:NUM_SHOWN])}{more}"


def _words(taken: StepRows, finding: Finding) -> tuple[str, str]:
    """Whose fault it is, and how to mend that."""
    if finding.tensors:
        more = f" and {len(finding.tensors) - 1} more" if len(finding.tensors) > 1 else ""
        which = f"{finding.tensors[0]}{more} held NaN or infinity before this step"
        if finding.blame == "base":
            return (
                f"the base is at fault, not the rows: the frozen {which}",
                "fetch the model anew; a base that was finite when it was loaded was damaged in memory since",
            )
        return (
            f"the weights are at fault, not the rows: the trained {which}",
            "lower optim.lr and continue from the last checkpoint, which is finite",
        )
    if finding.blame == "nothing":
        return (
            "computed again, every pass by itself is finite: their sum overflows, or the machine miscalculated",
            "give the same command again; if it happens at the same step, lower optim.lr; else test the memory",
        )
    if len(finding.sample_ids) == len(set(taken.sample_ids)) > 1:
        return (
            "every row of the step fails, so the weights have run away rather than a row being odd",
            "lower optim.lr (or set optim.max_grad_norm) and continue from the last checkpoint",
        )
    return (
        f"{len(finding.sample_ids)} of the {len(set(taken.sample_ids))} rows of the step fail, each computed alone",
        "look at them (whet inspect RECIPE --row ID) and take them out, lower optim.lr, "
        "or let the run pass over such rows (train.guard.max_rollbacks)",
    )


def _bad_rows(run: Training, taken: StepRows) -> dict[str, Any]:
    """`ids` of this rank's rows that fail, and the `place` where the first of them does."""
    bad = [batch for batch, is_finite in _each_alone(run, taken, taken.batches) if not is_finite]
    by_id = {sample_id(run.samples, i): run.samples[i] for i in run.order.step(run.plan, taken.step).indices.tolist()}
    ids = [name for batch in bad for name in batch.sample_ids]
    singles = [pack([by_id[name]], share_prefix=run.plan.share_prefix) for name in ids]
    alone = [single for single, is_finite in _each_alone(run, taken, singles) if not is_finite]
    found = {single.sample_ids[0] for single in alone}
    # of a pass whose rows are finite one by one, all together are at fault
    together = [batch for batch in bad if not found.intersection(batch.sample_ids)]
    found.update(name for batch in together for name in batch.sample_ids)
    place = None
    for batch, is_own in _in_turns(run, [*alone, *together][:1]):
        watched = _watched(run, taken, batch)
        place = watched if is_own else place
    run.optimizer.zero_grad(set_to_none=True)
    return {"ids": sorted(found), "place": asdict(place) if place else None}


def _each_alone(
    run: Training, taken: StepRows, batches: Sequence[PackedBatch]
) -> Iterator[tuple[PackedBatch, bool]]:  # fmt: skip
    """This rank's batches, and whether loss and gradients of each are finite."""
    shares = _shares_weights(run)
    for batch, is_own in _in_turns(run, batches):
        is_finite = _is_finite(run, taken, batch)
        if shares:  # a part of the gradient that is not finite may be another rank's
            is_finite = not any_over_ranks(not is_finite)
        if is_own:
            yield batch, is_finite


def _in_turns(run: Training, own: Sequence[PackedBatch]) -> Iterator[tuple[PackedBatch, bool]]:
    """(batch, whether it is this rank's); where ranks share weights, one data rank's after the other's, each beside
    passes of the others that teach nothing."""
    own = [batch for batch in own if batch.sample_ids != ("",)]
    if not _shares_weights(run):
        yield from ((batch, True) for batch in own)
        return
    counts = dict(json.loads(text) for text in gather_texts(json.dumps([run.layout.data_rank, len(own)])))
    for data_rank in sorted(counts):
        for number in range(counts[data_rank]):
            is_own = data_rank == run.layout.data_rank
            yield (own[number] if is_own else fill_turn()), is_own


def _shares_weights(run: Training) -> bool:
    return run.layout.is_sharded or run.layout.num_tensor_ranks > 1


def _is_finite(run: Training, taken: StepRows, batch: PackedBatch, watch: Watch | None = None) -> bool:
    """Whether loss and gradient norm of `batch` alone are finite."""
    on_device = to_device(batch, run.device)
    run.optimizer.zero_grad(set_to_none=True)
    with run.dropout.micro_batch(taken.step, on_device):
        nll_sum = run.loss_model.nll_sum(on_device)
        if watch is not None:
            watch.forward_is_over(nll_sum)
        (nll_sum / taken.num_taught).backward()
    gradients = [own_part(p.grad) for p in run.trainables.with_gradients if p.grad is not None]
    # as clipping sums them up: a norm may overflow although no gradient does
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if watch is not None and not math.isfinite(norm):
        watch.backward_is_over()
    return math.isfinite(float(nll_sum.detach())) and math.isfinite(norm)


def _watched(run: Training, taken: StepRows, batch: PackedBatch) -> Place | None:
    eager: AbstractContextManager[Any] = nullcontext()
    if run.plan.is_compiled:  # compiled layers do not ask for hooks
        eager = torch.compiler.set_stance("force_eager")
    with eager, Watch(run.model) as watch:
        _is_finite(run, taken, batch, watch)
    return watch.place


def _all_tensors(run: Training) -> Iterator[tuple[str, Tensor]]:
    yield from run.model.named_parameters()
    yield from run.model.named_buffers()
