"""Checkpoints in the course of a run: begun by all ranks at the same step, written by a thread of rank 0.

begin(4) ... step 5 ... step 6: rank 0 says that checkpoint-4 is whole ... all ranks tell their callbacks ... begin(8)

At most one is being written. Training waits for it where the next one begins, at the end and when it is stopped; so a
run that ends, in whatever way, has no half-written checkpoint behind it, and a crash costs at most the one in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from whet.checkpoint.background import Background
from whet.checkpoint.names import checkpoint_folder
from whet.parallel.env import Env
from whet.parallel.reduce import barrier
from whet.train.callbacks import Callbacks

Hold = Callable[[int], Callable[[], None]]
"""step -> what writes the state as it was when this was called"""


class Saves:
    """A context: leaving it waits for the checkpoint in flight, so that none is written into a folder given up."""

    def __init__(self, hold: Hold, *, run_folder: Path, env: Env, callbacks: Callbacks) -> None:
        self._hold = hold
        self._run_folder = run_folder
        self._env = env
        self._callbacks = callbacks
        self._writer = Background()
        self._in_flight: int | None = None

    def begin(self, step: int) -> None:
        """Hold the state after 1-based `step` and begin to write it; waits for the checkpoint before it.

        StorageError when that one could not be written.
        """
        self.settle()
        if self._env.is_main:
            self._writer.start(self._hold(step))
        self._in_flight = step

    def is_whole(self) -> bool:
        """Whether the checkpoint in flight is on the disk by now, which rank 0 alone knows.

        StorageError when it could not be written.
        """
        return self._in_flight is not None and self._env.is_main and self._writer.is_done()

    def settle(self) -> None:
        """Wait for the checkpoint in flight on all ranks; StorageError when it could not be written."""
        if self._in_flight is not None:
            self._writer.wait()
            barrier()
            self.tell()

    def tell(self) -> None:
        """All ranks know that the checkpoint in flight is whole: the callbacks are told."""
        assert self._in_flight is not None, "nothing is in flight"
        step, self._in_flight = self._in_flight, None
        self._callbacks.on_checkpoint_saved(step, checkpoint_folder(self._run_folder, step))

    def __enter__(self) -> Saves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self._writer.close()
        if failed is not None:  # beside another error, else it would have been raised where it was waited for
            self._callbacks.on_event(self._in_flight or 0, f"checkpoint-{self._in_flight} was not written: {failed}")
