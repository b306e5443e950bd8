"""Which checkpoint a run goes on from: the ranks verify it together, each some of its files, and choose the same.

A checkpoint of a large model is hundreds of gigabytes; were each rank to read all of it, a cluster would read it as
often as it has ranks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from whet.checkpoint.background import Background
from whet.checkpoint.load import Checkpoint, newest_checkpoint
from whet.checkpoint.manifest import read_manifest, verify
from whet.checkpoint.names import list_steps
from whet.errors import RecipeError, StorageError
from whet.parallel.env import Env
from whet.parallel.reduce import any_over_ranks, broadcast_text, gather_texts

_TURN_SECONDS = 10.0
"""that a rank reads before it asks after the others: well below the time limit of a collective"""


def choose_checkpoint(
    run_folder: Path, resume: str | None, env: Env, say: Callable[[str], None]
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to continue from, None to start at the beginning; and a sentence for each that was passed over.

    `resume`: `auto` (there must be one), the folder of one, or None (if there is one). All ranks must call it.
    """
    if resume not in (None, "auto"):
        return open_together(Path(resume), env), []
    checkpoint, notes = newest_together(run_folder, env)
    for note in notes:
        say(note)
    if checkpoint is None and notes:
        raise StorageError(
            "none of its checkpoints is whole",
            where=str(run_folder),
            mend="restore one from a copy, or start anew with --fresh (what is there is moved aside)",
        )
    if checkpoint is None and resume == "auto":
        raise RecipeError(
            "there is no checkpoint to resume from", where=str(run_folder), mend="leave --resume out to start"
        )
    return checkpoint, notes


def newest_together(run_folder: Path, env: Env) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies and a sentence for each newer one that had to be ignored, alike on all ranks.

    All ranks must call it.
    """
    steps = json.loads(broadcast_text(json.dumps(list_steps(run_folder)) if env.is_main else None))
    return newest_checkpoint(run_folder, steps=steps, open_one=partial(open_together, env=env))


def open_together(folder: Path, env: Env) -> Checkpoint:
    """Verify `folder` against its manifest; StorageError, on all ranks, says what the first of them found wrong.

    All ranks must call it.
    """
    complaints = [""]

    def look() -> None:
        if not folder.is_dir():
            complaints[0] = "is not a checkpoint folder, or not on storage that all ranks share"
            return
        try:
            verify(folder, rank=env.rank, num_ranks=env.world_size)
        except StorageError as error:
            complaints[0] = error.what

    reader = Background()
    reader.start(look)
    try:
        while any_over_ranks(not reader.is_done(within_seconds=_TURN_SECONDS)):
            pass
    finally:
        reader.close()
    said = gather_texts(complaints[0])
    rank, complaint = next(((rank, text) for rank, text in enumerate(said) if text), (0, ""))
    if complaint:
        raise StorageError(complaint if rank == 0 else f"rank {rank}: {complaint}", where=str(folder))
    return Checkpoint(folder=folder, step=read_manifest(folder).step)
