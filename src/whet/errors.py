"""Errors a user can meet. Each says what happened, where, and how to mend it, and has its own exit code.

Exit codes are part of the interface (schedulers and scripts read them): 0 done, 1 unexpected, 2 recipe or
usage, 3 data, 4 non-finite, 5 storage, 6 hub or token, 7 peer lost, 8 a gate said no, 9 out of memory,
75 interrupted and resumable (EX_TEMPFAIL of sysexits.h: "try again later").
"""

from __future__ import annotations

from typing import ClassVar


class WhetError(Exception):
    """Base of every error with a known cause. `str(error)` is the whole message shown to the user."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.what = what
        self.where = where
        self.mend = mend
        super().__init__(self._text())

    def _text(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  mend: {self.mend}" if self.mend else head


class RecipeError(WhetError, ValueError):
    """The recipe or the command line cannot be run as written."""

    exit_code = 2


class DataError(WhetError, ValueError):
    """A row, file or split cannot be used; names file:line where there is one."""

    exit_code = 3


class NonFiniteError(WhetError, ArithmeticError):
    """A loss or gradient was not finite; raised before the update, so no weight is touched."""

    exit_code = 4


class StorageError(WhetError, OSError):
    """A folder cannot be written, is locked by another run, is full, or holds a broken checkpoint."""

    exit_code = 5

    # OSError's own __str__ knows nothing of where and mend
    def __str__(self) -> str:
        return self._text()


class HubError(WhetError, ConnectionError):
    """A model or dataset could not be fetched, or its bytes are not the expected ones."""

    exit_code = 6

    def __str__(self) -> str:
        return self._text()


class PeerLostError(WhetError, ConnectionError):
    """Another rank of this run is gone or does not answer."""

    exit_code = 7

    def __str__(self) -> str:
        return self._text()


class GateError(WhetError):
    """A check that the user asked for said no (compare --gate, export proof, resume --verify)."""

    exit_code = 8


class OutOfMemoryError(WhetError, MemoryError):
    """The work does not fit into memory, with the estimate and what would help."""

    exit_code = 9


class PeerOutOfMemoryError(PeerLostError):
    """Another rank ran out of memory in a pass in which all take part, so this one ends for that reason too."""

    exit_code = OutOfMemoryError.exit_code


class InterruptedRunError(WhetError):
    """The run was asked to stop, saved its state, and continues when the same command is given again."""

    exit_code = 75
