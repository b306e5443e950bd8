"""Everything that `whet doctor` looks at when nothing is asked for, in the order in which a run would meet it."""

from __future__ import annotations

from pathlib import Path

from whet.doctor.access import check_access
from whet.doctor.finding import Finding
from whet.doctor.graphics import check_graphics, look_at_graphics
from whet.doctor.local_ranks import try_local_ranks
from whet.doctor.processor import check_processor, look_at_processor
from whet.doctor.room import check_room
from whet.doctor.software import check_software


def look_around(folder: Path) -> list[Finding]:
    """Libraries, GPUs, processor, disks and keys; `folder` is where runs would go. Asks no server.

    Where there are several GPUs, one process for each meets the others and times all-reduces.
    """
    graphics = look_at_graphics()
    found = [*check_software(), *check_graphics(graphics)]
    if len(graphics.cards) > 1 and graphics.nccl:
        found.append(try_local_ranks(len(graphics.cards)))
    return [*found, *check_processor(look_at_processor()), *check_room(folder), *check_access()]
