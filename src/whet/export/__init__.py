"""From a finished run to what other tools load: written, read back by the tool's own library, compared, then named.

`EXPORTS` is the table of formats; each function writes one folder and returns it.
"""

from collections.abc import Callable
from pathlib import Path

from whet.export.request import Request

EXPORTS: dict[str, Callable[[Request], Path]] = {}

__all__ = ["EXPORTS", "Request"]
