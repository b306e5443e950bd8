"""What a command needs of its surroundings before it runs: streams, a folder to stand in, files that may be open."""

from __future__ import annotations

import os
import resource

from whet.errors import RecipeError
from whet.streams import open_standard_streams

_WANTED_FILES = 4096
_FEWEST_FILES = 64
"""a small run has some forty open; below this it dies in the middle of an import"""


def prepare() -> None:
    """Open closed standard streams and raise the soft limit of open files.

    RecipeError where the folder of the call is gone, or too few files may be open.
    """
    open_standard_streams()
    _raise_file_limit()
    # nothing whet writes may be changed by every user of the machine, whatever the umask
    os.umask(os.umask(0o077) | 0o002)
    try:
        os.getcwd()  # noqa: PTH109 - asked of the system, no path is wanted
    except FileNotFoundError as error:
        raise RecipeError(
            "the folder that this was started in has been removed", mend="change to a folder that exists (cd)"
        ) from error


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        allowed = soft
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed != resource.RLIM_INFINITY and allowed < _FEWEST_FILES:
        raise RecipeError(
            f"this session may open {allowed} files only",
            mend=f"raise the limit, for example ulimit -n {_WANTED_FILES}",
        )
