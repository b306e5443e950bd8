"""A stand-in for pycosat, installed where there is no C compiler to build the real one with."""

from __future__ import annotations

from typing import NoReturn

_MEND = (
    "pycosat was not built, because there was no C compiler when whet was installed: install one (such as gcc and the "
    "headers of Python), then pip install --force-reinstall --no-deps pycosat==0.6.6"
)


def solve(*_clauses: object, **_options: object) -> NoReturn:
    """RuntimeError: what to install."""
    raise RuntimeError(_MEND)


def itersolve(*_clauses: object, **_options: object) -> NoReturn:
    """RuntimeError: what to install."""
    raise RuntimeError(_MEND)
