"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found, why it matters and what to do."""

    check: str
    """what was looked at: `NCCL_SOCKET_IFNAME`"""
    state: Literal["good", "note", "fault"]
    """`fault`: ranks will not find each other, or will be far slower than they could be"""
    found: str
    why: str = ""
    mend: str = ""
