"""Find the newest whole checkpoint of a run and read it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from whet.checkpoint.manifest import verify
from whet.checkpoint.names import checkpoint_folder, is_sharded, list_steps
from whet.errors import StorageError
from whet.json_text import read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint folder."""

    folder: Path
    step: int

    @property
    def is_sharded(self) -> bool:
        """Whether weights and moments lie in the files of several ranks; `reshard.load_into` reads them."""
        return is_sharded(self.folder)

    def tensors(self, name: str, *, ending: str = "") -> dict[str, Tensor]:
        """Named tensors of one safetensors file; of those alone whose name ends so."""
        try:
            with safe_open(self.folder / name, framework="pt") as file:
                names = [key for key in file.keys() if key.endswith(ending)]  # noqa: SIM118 (not a mapping)
                return {key: file.get_tensor(key) for key in names}
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{name} cannot be read: {error}", where=str(self.folder)) from error

    def document(self, name: str) -> Any:
        """One JSON file."""
        try:
            return read_json((self.folder / name).read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(f"{name} cannot be read: {error}", where=str(self.folder)) from error


def open_checkpoint(folder: Path) -> Checkpoint:
    """Verify `folder` against its manifest; StorageError says what is wrong with it."""
    if not folder.is_dir():
        raise StorageError("is not a checkpoint folder", where=str(folder))
    return Checkpoint(folder=folder, step=verify(folder).step)


def newest_checkpoint(
    run_folder: Path, *, steps: Sequence[int] | None = None, open_one: Callable[[Path], Checkpoint] = open_checkpoint
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each newer one that had to be ignored.

    `steps` are looked at, newest first (None: all that are there), by `open_one`.
    """
    notes: list[str] = []
    for step in list_steps(run_folder) if steps is None else steps:
        try:
            return open_one(folder := checkpoint_folder(run_folder, step)), notes
        except StorageError as error:
            notes.append(f"ignored {folder.name}: {error.what}")
    return None, notes
