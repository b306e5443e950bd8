"""Room for the passes of a step: where memory runs out in one, the step begins anew with every pass cut into parts.

    pass of 4 samples |a b c d|    no memory: |a d|b c|    again none: |a|d|b|c|    none for one sample: exit 9

The step has the same samples on the same ranks, the same number of taught tokens to divide by, and the same dropout
masks, which belong to the samples; so its update is that of whole passes up to rounding. Nothing of the failed attempt
is kept: a backward pass that was broken off has added some gradients and not others. Later steps begin with the parts.

That a rank ran out travels with the gradients, in the one collective that a step has anyway; so all ranks learn it at
the same place, throw away what they have just added up, and cut their passes alike. Passes that hold collectives
themselves (fsdp, tensor) cannot be broken off on one rank alone: there the run ends, on all ranks, with exit code 9.

Which steps were cut is known from the checkpoint and from incidents.jsonl: a continued run cuts the same steps, also
those that it makes again, and so ends with the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from whet.errors import OutOfMemoryError
from whet.parallel.reduce import broadcast_text, gather_texts
from whet.shortage import MAYBE_SHORTAGE, first_line, is_shortage
from whet.train.incidents import Incident, read_incidents
from whet.train.lanes import Backward
from whet.train.laps import Laps
from whet.train.pass_size import PassSize
from whet.types import PackedBatch, RunPlan

if TYPE_CHECKING:
    from whet.train.loop import Training

KIND = "out_of_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How passes are computed from a step on."""

    step: int = 0
    """0-based; the first one"""
    num_parts: int = 1
    """of every pass of the plan; of one with fewer samples, as many as those"""
    is_single: bool = False
    """one pass at a time, although the plan has lanes"""
    micro_batch: int = 0
    """of the plan whose passes were cut"""


class ShortageError(Exception):
    """There was no memory for a pass of this rank; what it was computing with is free again."""

    def __init__(self, size: PassSize) -> None:
        self.size = size
        super().__init__(size.what)


Explain = Callable[[str, PassSize], OutOfMemoryError]
"""what happened, and the largest pass of the last step -> the error that ends the run, with what would help"""


def unexplained(what: str, size: PassSize) -> OutOfMemoryError:
    """Where nothing is known of model and machine."""
    return OutOfMemoryError(what, mend="shorter samples (data.max_length), train.recompute=full, or a smaller model")


class Room:
    """Knows from which step on passes are cut, and how finely; the same on all ranks."""

    def __init__(self, explain: Explain = unexplained) -> None:
        self._explain = explain
        self._cuts: dict[int, Cut] = {}
        self._largest = PassSize()

    def at(self, step: int) -> Cut:
        """How 0-based `step` is computed."""
        return self._cuts[max(begun)] if (begun := [first for first in self._cuts if first <= step]) else Cut()

    def watched(self, one_pass: Backward, *, may_fail_alone: bool) -> Backward:
        """`one_pass` with a ShortageError in place of whatever says that memory ran out.

        OutOfMemoryError where other ranks take part in the pass, so that this one cannot fail alone.
        """

        def watched_pass(batch: PackedBatch, laps: Laps, backward: Callable[[Tensor], None]) -> Tensor:
            try:
                return one_pass(batch, laps, backward)
            except MAYBE_SHORTAGE as error:
                if not is_shortage(error):
                    raise
                what = first_line(error)
            # out of reach of the error, whose frames hold what the pass was computed with
            size = _size(batch, what)
            if may_fail_alone:
                raise ShortageError(size)
            raise self._explain(
                f"out of memory in {size.words}, in which the other ranks take part, so that it cannot be cut: {what}",
                size,
            )

        return watched_pass

    def note(self, batches: Iterable[PackedBatch]) -> None:
        """The passes of a step that was made: what an error elsewhere is explained with."""
        self._largest = max(map(_size, batches), key=lambda size: size.num_tokens, default=self._largest)

    def cut_smaller(self, run: Training, step: int, own: PassSize | None) -> None:
        """Cut the passes of 0-based `step` and of later ones, because of what ranks ran out of memory for; all call it.

        `own`: this rank's. OutOfMemoryError, on all ranks, where a pass of one sample was too large.
        """
        texts = gather_texts(json.dumps(own and asdict(own)))
        short = {rank: PassSize(**found) for rank, text in enumerate(texts) if (found := json.loads(text)) is not None}
        now = self.at(step)
        largest = max(short.values(), key=lambda size: (len(size.lengths) == 1, size.num_tokens))
        on = f" on rank {', '.join(map(str, short))}" if len(texts) > 1 else ""
        happened = f"step {step + 1}: out of memory in {largest.words}{on}"
        has_lanes = run.lanes is not None and not now.is_single
        if len(largest.lengths) > 1:
            cut = Cut(step=step, num_parts=2 * now.num_parts, is_single=now.is_single, micro_batch=run.plan.micro_batch)
            then = f"every pass of the plan is computed in {cut.num_parts} parts"
        elif has_lanes:
            cut = Cut(step=step, num_parts=now.num_parts, is_single=True, micro_batch=run.plan.micro_batch)
            then = "passes are computed one after the other"
        else:
            raise self._explain(f"{happened}, which cannot be cut: {largest.what}", largest)
        self._cuts[step] = cut
        run.callbacks.on_incident(
            Incident(
                step=step + 1,
                kind=KIND,
                text=f"{happened}; the step begins anew with the same samples, and from here on {then}",
                facts={"cut": asdict(cut), "ranks": list(short), "sizes": [asdict(size) for size in short.values()]},
            )
        )

    @contextmanager
    def explained(self, where: str) -> Iterator[None]:
        """OutOfMemoryError for a shortage inside, where there is nothing to cut: in an update, a checkpoint, ..."""
        try:
            yield
        except MAYBE_SHORTAGE as error:
            if not is_shortage(error):
                raise
            raise self._explain(f"out of memory in {where}: {first_line(error)}", self._largest) from error

    def state(self) -> list[dict[str, Any]]:
        """The cuts, as JSON."""
        return [asdict(cut) for _, cut in sorted(self._cuts.items())]

    def load(self, documents: Iterable[Mapping[str, Any]], plan: RunPlan) -> None:
        """Cuts as `state` gave them, in addition to those known, for `plan`.

        Parts are as large as they were then. Where the plan's passes have become larger, somebody wanted them to be.
        """
        known = {field.name for field in fields(Cut)}
        for document in documents:
            cut = Cut(**{name: value for name, value in document.items() if name in known})
            if plan.micro_batch <= cut.micro_batch:
                num_parts = -(-cut.num_parts * plan.micro_batch // cut.micro_batch)
                self._cuts[cut.step] = Cut(
                    step=cut.step, num_parts=num_parts, is_single=cut.is_single, micro_batch=plan.micro_batch
                )

    def recall(self, run_folder: Path, plan: RunPlan, *, is_main: bool) -> None:
        """`load` what incidents.jsonl tells of steps that are made again, as rank 0 reads it; all ranks call it."""
        told = None
        if is_main:
            incidents = [each for each in read_incidents(run_folder) if each.kind == KIND]
            told = json.dumps([each.facts["cut"] for each in incidents if isinstance(each.facts.get("cut"), dict)])
        self.load(json.loads(broadcast_text(told)), plan)


def _size(batch: PackedBatch, what: str = "") -> PassSize:
    first = batch.lengths[0] + batch.shared_prefix if batch.lengths else 0
    return PassSize(lengths=(first, *batch.lengths[1:]), num_taught=batch.num_taught, what=what)
