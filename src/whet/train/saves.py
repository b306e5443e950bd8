"""Checkpoints in the course of a run: begun by all ranks at the same step, written by threads beside training.

    begin(4) ... step 5 ... step 6: no rank writes any more ... all ranks advance: callbacks are told ... begin(8)

Where each rank holds the whole state, rank 0 writes. Where it is spread over the ranks, each writes its part; when
all have, their reports are exchanged, from the thread that trains, and rank 0 makes a checkpoint of the parts:

    begin(4) ... step 6: no rank writes ... advance: reports ... step 7: no rank writes ... advance: callbacks are told

At most one is in flight. Training waits for it where the next one begins, at the end and when it is stopped; so a run
that ends or is stopped has no half-written checkpoint behind it. A crash costs the steps since the last whole one: at
most `save_every`, because training also waits before it tells of a step more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from whet.checkpoint.background import Background
from whet.checkpoint.names import checkpoint_folder
from whet.checkpoint.sharded import refuse_failed
from whet.parallel.env import Env
from whet.parallel.reduce import any_over_ranks, gather_texts
from whet.train.callbacks import Callbacks

Hold = Callable[[int], Callable[[], str | None]]
"""step -> what writes the state as it was when this was called, and returns a report where parts are to be joined"""
Join = Callable[[int, Sequence[str]], None]
"""step and the reports of all ranks: makes a checkpoint of the parts"""
_TURN_SECONDS = 10.0
"""that a rank waits for its disk before it asks after the others: well below the time limit of a collective"""


class Saves:
    """A context: leaving it waits for what this rank is writing, so that nothing is written into a folder given up."""

    def __init__(
        self, hold: Hold, *, run_folder: Path, env: Env, callbacks: Callbacks, is_spread: bool = False,
        join: Join | None = None, check: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        """`is_spread`: every rank must hold its part of the state. With `join` every rank writes its part, too. `check`
        is called on all ranks before a state is held, and raises where it must not be saved."""
        self._hold = hold
        self._join = join
        self._check = check
        self._run_folder = run_folder
        self._env = env
        self._callbacks = callbacks
        self._holds = env.is_main or is_spread
        self._writer = Background()
        self._in_flight: int | None = None
        self._whole = 0
        self._report = ""
        self._is_joining = False
        self.begun: int | None = None
        """1-based step of the newest checkpoint that was begun, the same on all ranks"""

    def start_after(self, step: int) -> None:
        """Training starts after 1-based `step`, which a crash cannot cost any more."""
        self._whole = step

    def begin(self, step: int) -> None:
        """Hold the state after 1-based `step` and begin to write it; waits for the checkpoint before it.

        StorageError when that one could not be written.
        """
        self.settle()
        if self._check is not None:
            self._check(step)
        if self._holds:
            self._writer.start(partial(self._write, self._hold(step)))
        self._in_flight = self.begun = step

    def keep_up(self, step: int, *, is_writing: bool, save_every: int) -> None:
        """After 1-based `step`, before anyone hears of it: advance unless a rank is writing (all know whether one is).

        The checkpoint in flight is waited for where a crash would cost more than `save_every` steps without it: as a
        rule it is written beside one step. StorageError when it could not be written.
        """
        if not is_writing:
            self.advance()
        if self._in_flight is not None and step - self._whole > save_every:
            self.settle()

    def is_writing(self) -> bool:
        """Whether this rank is at work on the checkpoint in flight; StorageError when that failed."""
        return not self._writer.is_done()

    def advance(self) -> None:
        """What comes after all ranks have ended their work on the checkpoint in flight; all ranks must call it then.

        StorageError, on all ranks, when one could not write its part.
        """
        if self._in_flight is None:
            return
        if self._join is None or self._is_joining:
            self._tell()
            return
        reports = gather_texts(self._report)
        refuse_failed(self._run_folder, step=self._in_flight, reports=reports)
        self._is_joining = True
        if self._env.is_main:
            self._writer.start(partial(self._join, self._in_flight, reports))

    def settle(self) -> None:
        """Wait until the checkpoint in flight is whole, on all ranks; StorageError when it could not be written."""
        while self._in_flight is not None:
            while any_over_ranks(not self._writer.is_done(within_seconds=_TURN_SECONDS)):
                pass
            self.advance()

    def _write(self, write: Callable[[], str | None]) -> None:
        self._report = write() or ""

    def _tell(self) -> None:
        """The checkpoint in flight is whole, as all ranks know: the callbacks are told."""
        assert self._in_flight is not None, "nothing is in flight"
        step, self._in_flight, self._is_joining = self._in_flight, None, False
        self._whole = step
        self._callbacks.on_checkpoint_saved(step, checkpoint_folder(self._run_folder, step))

    def __enter__(self) -> Saves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self._writer.close()
        if failed is not None:  # beside another error, else it would have been raised where it was waited for
            self._callbacks.on_event(self._in_flight or 0, f"checkpoint-{self._in_flight} was not written: {failed}")
        elif self._in_flight is not None and self._join is not None and not self._is_joining:
            # the other ranks may be gone, so nobody is asked for a report
            self._callbacks.on_event(self._in_flight, f"checkpoint-{self._in_flight} was given up: not all had written")
