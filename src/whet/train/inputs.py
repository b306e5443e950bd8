"""What a run takes in, by hash or version, kept in every checkpoint; a continuation is held against it.

    early: recipe, data files, files of the model folder, versions      before rows are read and weights are loaded
    late:  base weights, chat template, tokens of the rows, plan        when they are there

Each half is refused with all of its differences at once (exit 2), or accepted with --accept-changes; what was accepted
stays in inputs.json of the run folder and of every later checkpoint, with the step after which it began to count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from whet import cache
from whet.checkpoint.load import Checkpoint
from whet.data.pipeline import PreparedData
from whet.errors import RecipeError, StorageError
from whet.models.load import LoadedModel
from whet.recipe import load_recipe
from whet.recipe.schema import Recipe
from whet.train.changes import Change, differences, recipe_changes, settle
from whet.train.folder import RECIPE
from whet.train.saved_documents import read_plan, read_state
from whet.train.state import INPUTS
from whet.types import RunPlan

FORMAT_VERSION = 1
_PACKAGES = ("whet", "torch", "transformers", "peft", "tokenizers", "numpy")
_MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
_OF_PLAN = ("num_samples", "global_batch", "compute_dtype", "device")
_GONE = "none"


class Inputs:
    """The inputs of this start beside those of the checkpoint that it goes on from, if there is one."""

    def __init__(
        self, checkpoint: Checkpoint | None, *, is_accepting: bool, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._checkpoint, self._is_accepting, self._say = checkpoint, is_accepting, say
        self._now: dict[str, dict[str, str]] = {}
        self._before, self._accepted = _read(checkpoint) if checkpoint else ({}, [])
        self._num_recipe_changes = 0
        self.changes: list[str] = []
        """accepted in this start, in words"""

    def look_early(self, recipe: Recipe, model_folder: Path, *, base_folder: Path) -> None:
        """Compare what is known without reading rows and weights; relative data files start at `base_folder`.

        RecipeError with the differences unless they are accepted and can be.
        """
        found = []
        if self._checkpoint is not None:
            found = recipe_changes(load_recipe(self._checkpoint.folder / RECIPE), recipe)
            self._num_recipe_changes = len(found)
        found += self._compare("data file ", "data files", data_files(recipe, base_folder))
        found += self._compare("model file ", "model files", _model_files(model_folder))
        found += self._compare("version of ", "versions", {name: _version(name) for name in _PACKAGES})
        self._settle(found)

    def look_late(self, loaded: LoadedModel, data: PreparedData, plan: RunPlan) -> None:
        """Compare what is known now; `plan` is as it would begin today. RecipeError as of `look_early`."""
        chat = data.template.chat
        found = self._compare("base ", "base", {"weights": loaded.identity.weights_sha256})
        found += self._compare("", "templates", {"chat template": _hash_text(chat.text) if chat else _GONE})
        found += self._compare("rows ", "rows", {"train": data.train.fingerprint})
        held_out = {"validation": data.validation.fingerprint} if data.validation else {}
        found += self._compare("rows ", "held-out rows", held_out)
        if self._checkpoint is not None:
            saved = read_plan(self._checkpoint)
            before = {name: saved[name] for name in _OF_PLAN if name in saved}
            found += differences(before, {name: getattr(plan, name) for name in before}, prefix="plan ")
        self._settle(found)

    def refuse_nothing_left(self, total_steps: int) -> None:
        """RecipeError when the changed run would end before its checkpoint, or train no step with a changed recipe."""
        step = self._checkpoint.step if self._checkpoint else 0
        if self.changes and (step > total_steps or (step == total_steps and self._num_recipe_changes)):
            raise RecipeError(
                f"with these changes the run ends after step {total_steps}, and the checkpoint is of step {step}",
                where=str(self._checkpoint.folder) if self._checkpoint else None,
                mend="let it train longer (train.epochs), continue from an older checkpoint (--resume FOLDER), or "
                "start anew with --fresh",
            )

    def document(self) -> dict[str, Any]:
        """inputs.json: what the run takes in now, and what was accepted on the way, oldest first."""
        accepted = [*self._accepted]
        if self.changes and self._checkpoint is not None:
            accepted.append({"after_step": self._checkpoint.step, "changes": list(self.changes)})
        return {"format_version": FORMAT_VERSION, "inputs": self._now, "accepted": accepted}

    def _compare(self, prefix: str, section: str, now: dict[str, str]) -> list[Change]:
        self._now[section] = now
        if section not in self._before:
            return []  # a checkpoint from before this was recorded
        return differences(self._before[section], now, prefix=prefix)

    def _settle(self, found: list[Change]) -> None:
        where = str(self._checkpoint.folder) if self._checkpoint else ""
        self.changes += settle(found, where=where, is_accepting=self._is_accepting, say=self._say)


def data_files(recipe: Recipe, base_folder: Path) -> dict[str, str]:
    """SHA-256 of every local file that the recipe trains on or validates with; what evaluates may change."""
    files = {}
    for source in (*recipe.data.train, *recipe.data.validation):
        path = base_folder / Path(source.source).expanduser()
        if path.is_file() and os.access(path, os.R_OK):  # else reading the rows says what is wrong
            files[source.source] = cache.sha256_of(path)
    return files


def _model_files(folder: Path) -> dict[str, str]:
    return {name: cache.digest_of(folder / name) for name in _MODEL_FILES if (folder / name).is_file()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _GONE


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(checkpoint: Checkpoint) -> tuple[Mapping[str, Mapping[str, str]], list[dict[str, Any]]]:
    """The inputs that `checkpoint` was made with, and what had been accepted until then."""
    if not (checkpoint.folder / INPUTS).is_file():
        # of an earlier whet: its state names the base and the rows
        state = read_state(checkpoint)
        inputs = {"base": {"weights": state["base"]["weights_sha256"]}, "rows": {"train": state["data_fingerprint"]}}
        return inputs, []
    document = checkpoint.document(INPUTS)
    try:
        found: dict[str, dict[str, str]] = {name: dict(values) for name, values in document["inputs"].items()}
        return found, list(document["accepted"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{INPUTS} has not the form of one: {json.dumps(document)[:60]}",
            where=str(checkpoint.folder),
            mend="continue from an older checkpoint",
        ) from error
