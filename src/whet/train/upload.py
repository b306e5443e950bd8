"""Batches go to the GPU ahead of their step, in a stream of their own, while the step before is computed.

thread "rows"    read step 5 | copy begins, event 5 | read step 6 ...
GPU, copies                     [5]                    [6]
GPU, training      step 4 ...........|after event 5: step 5 ...

Elsewhere nothing is copied: batches are where they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from whet.data.packing import to_device
from whet.data.step_rows import StepRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """Rows on their way, and the event behind the last copy; None where there was nothing to copy."""

    rows: StepRows
    event: torch.cuda.Event | None

    def take(self) -> StepRows:
        """The rows, to be used in the present stream: it waits for the copies, the host does not."""
        if self.event is not None:
            present = torch.cuda.current_stream()
            present.wait_event(self.event)
            for tensor in _tensors(self.rows):
                # made in another stream: its memory may be given away only when this one has read it
                tensor.record_stream(present)
        return self.rows


class Upload:
    """Begins the copies of a step's batches to `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, rows: StepRows) -> Uploaded:
        if self._stream is None:
            return Uploaded(rows=rows, event=None)
        with torch.cuda.stream(self._stream):
            batches = tuple(to_device(batch, self._device) for batch in rows.batches)
            event = torch.cuda.Event()
            event.record()
        return Uploaded(rows=replace(rows, batches=batches), event=event)


def _tensors(rows: StepRows) -> list[Tensor]:
    values = (getattr(batch, field.name) for batch in rows.batches for field in fields(batch))
    return [value for value in values if isinstance(value, Tensor)]
