"""Which files of an export (or run) go to the hub: those that loaders read, the card and the proof, nothing else.

Checkpoints, optimizer states, logs and rows stay here, because a file must be on the list to be sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from whet.errors import RecipeError, StorageError
from whet.export.model_card import NAME as README
from whet.export.proof import PROOF
from whet.models.folder import read_json

PUBLISHED = (
    "adapter_model.safetensors", "adapter_config.json", "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "*.gguf", "Modelfile", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "chat_template.jinja", README, PROOF,
    "LICENSE", "LICENSE.txt",
)  # fmt: skip
_WEIGHTS = ("*.safetensors", "*.gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What would be sent."""

    files: dict[str, Path]
    """name in the repository -> file, sorted"""
    left_out: tuple[str, ...]
    """names in the folder that are not sent"""

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


def plan_upload(folder: Path, *, allows_unproven: bool = False) -> Upload:
    """The files of `folder` for the hub. RecipeError: no weights, or not proved; StorageError: a link among them."""
    if not folder.is_dir():
        raise RecipeError("no such folder", where=str(folder), mend="name the folder of an export")
    names = sorted(path.name for path in folder.iterdir())
    files = {name: folder / name for name in names if any(fnmatchcase(name, pattern) for pattern in PUBLISHED)}
    for path in files.values():
        if path.is_symlink() or not path.is_file():
            raise StorageError("is no plain file, so it is not sent", where=str(path), mend="put the file itself there")
    if not any(fnmatchcase(name, pattern) for name in files for pattern in _WEIGHTS):
        raise RecipeError("holds no weights", where=str(folder), mend="name the folder of an export")
    if not allows_unproven and (why := _missing_proof(folder)):
        raise RecipeError(
            f"is not proved to be what was trained: {why}", where=str(folder),
            mend="export it with the proof (whet export RUN --to ...), or push it as it is with --unproven",
        )  # fmt: skip
    return Upload(files=files, left_out=tuple(name for name in names if name not in files))


def _missing_proof(folder: Path) -> str | None:
    path = folder / PROOF
    if not path.is_file():
        return f"there is no {PROOF}"
    status = read_json(path).get("status")
    return None if status == "proved" else f"{PROOF} says {status!r}"
