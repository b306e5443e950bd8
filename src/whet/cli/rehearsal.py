"""`whet train --dry-run`: all that is known without reading a weight; nothing is written into the run folder.

Rows are read, checked and tokenized as for training (the tokens wait in the cache), so whatever is wrong with them is
said now, and the number of steps is exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whet.errors import StorageError

if TYPE_CHECKING:
    from whet.cli.preview import Preview
    from whet.recipe.schema import Recipe


def rehearse(recipe: Recipe, *, say: Callable[[str], None], fresh: bool) -> Preview:
    """The run as it would begin; raises what `whet train` would raise before it loads weights."""
    from whet.cli.preview import preview_run
    from whet.data.pipeline import prepare
    from whet.data.sampler import order_of
    from whet.models.tokenizer import load_tokenizer
    from whet.parallel.env import read_env
    from whet.recipe.resolve import resolve
    from whet.train.folder import needed_bytes

    refuse_no_place(Path(recipe.output), needed_bytes=needed_bytes(recipe))
    world_size = read_env().world_size
    loaded = load_tokenizer(recipe.model)
    data = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd(), say=say)
    for note in data.notes:
        say(note)
    num_units = order_of(recipe, data.train).num_units
    preview = preview_run(recipe, world_size=world_size, num_rows=data.train.ledger.num_rows)
    plan = resolve(recipe, world_size=world_size, num_samples=num_units)
    guesses = ("steps: the number of packs", "number of rows")
    return replace(
        preview,
        plan=plan,
        unknown=tuple(each for each in preview.unknown if not each.startswith(guesses)),
        notes=(*(note for note in preview.notes if not note.startswith("rows longer")), what_happens(recipe, fresh)),
    )


def what_happens(recipe: Recipe, fresh: bool) -> str:
    """What `whet train` would do with the run folder as it is."""
    from whet.checkpoint.names import list_steps
    from whet.train.folder import look

    folder = Path(recipe.output)
    if not folder.exists() or not any(folder.iterdir()):
        return f"{folder} is new: training would begin at step 0"
    if fresh:
        return f"{folder} would be moved aside: training would begin at step 0"
    if look(folder).is_finished:
        return f"{folder} holds this run, finished: its summary would be printed (--fresh trains again)"
    steps = list_steps(folder)
    return f"training would go on after step {steps[0]:,}" if steps else "training would begin at step 0"


def refuse_no_place(folder: Path, *, needed_bytes: int) -> None:
    """StorageError where `folder` could not be made or has too little room; nothing is created."""
    from whet.train.folder import refuse_no_room

    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not os.access(there, os.W_OK) or not there.is_dir():
        raise StorageError("cannot be written", where=str(there), mend="choose another `output`")
    refuse_no_room(folder, on=there, needed_bytes=needed_bytes)
