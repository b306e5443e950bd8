"""The rows of the next steps are read, packed and sent to the device by a thread while the present step is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType

import torch

from whet.data.step_rows import StepRows
from whet.train.upload import Upload, Uploaded

NUM_AHEAD = 2
"""steps; with the rows of the present one they stay in memory"""


class Prefetch:
    """Reads `steps` (0-based) in order; called with the step that is due, it gives its rows.

    An error of reading comes out at the step that it belongs to. One thread reads, so the order of reading is the
    order of the steps; it draws nothing at random. Leaving the context ends it, whatever the reason.
    """

    def __init__(self, read: Callable[[int], StepRows], steps: Iterable[int], device: torch.device) -> None:
        self._read = read
        self._steps = iter(steps)
        self._upload = Upload(device)
        self._coming: deque[Future[Uploaded]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rows", initializer=partial(_use, device))

    def __enter__(self) -> Prefetch:
        for _ in range(NUM_AHEAD):
            self._read_one_more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> StepRows:
        """The rows of `step`, waiting for them where they are not there yet."""
        rows = self._coming.popleft().result().take()
        assert rows.step == step, f"rows of step {rows.step} in place of {step}"
        self._read_one_more()
        return rows

    def go_to(self, steps: Iterable[int]) -> None:
        """Forget what was read ahead, errors included, and read `steps` from now on."""
        for coming in self._coming:
            coming.cancel()
        wait(self._coming)
        self._coming.clear()
        self._steps = iter(steps)
        for _ in range(NUM_AHEAD):
            self._read_one_more()

    def _read_one_more(self) -> None:
        if (step := next(self._steps, None)) is not None:
            self._coming.append(self._thread.submit(self._read_and_send, step))

    def _read_and_send(self, step: int) -> Uploaded:
        return self._upload.begin(self._read(step))


def _use(device: torch.device) -> None:
    """Pinned memory belongs to the GPU that is current in the thread that asks for it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
