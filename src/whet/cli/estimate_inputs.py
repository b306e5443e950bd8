"""What an estimate is made from: the machine, the model's shape and files, the rows; each read or assumed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from whet.errors import RecipeError, WhetError
from whet.estimate.devices import Device, find_device, recognise
from whet.estimate.hardware import free_memory_bytes, multiplies_bfloat16, processor_name
from whet.models.families import ModelShape, find_shape
from whet.recipe.schema import Recipe
from whet.recipe.splits import source_kind
from whet.train.fit_memory import Proposal, propose
from whet.train.foresee import Foreseen, Target, WeightFiles, foresee
from whet.train.foreseen_rows import ForeseenRows, assume_rows

if TYPE_CHECKING:
    from whet.train.measured_steps import Measured

Say = Callable[[str], None]
_UNITS = {"gb": 1e9, "gib": 2**30, "mb": 1e6, "mib": 2**20, "tb": 1e12}
_WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A recipe, and what it will need."""

    recipe: Recipe
    foreseen: Foreseen
    files: WeightFiles | None

    def propose(self, limit_bytes: float) -> Proposal:
        """Settings that keep within `limit_bytes` a device."""
        now = self.foreseen

        def at(recipe: Recipe, memory_bytes: float) -> Foreseen:
            target = replace(now.target, memory_bytes=memory_bytes)
            return foresee(recipe, now.shape, now.rows.cut_to(recipe.data.max_length), target, self.files)

        return propose(self.recipe, limit_bytes, at)


def refuse_what_does_nothing(
    *, gpu: str | None, measure: bool, count: int, mean_length: float | None, rows: int | None
) -> None:
    """RecipeError for options that contradict each other."""
    if measure and (gpu is not None or count > 1):
        raise RecipeError(
            "real steps can be made on this machine by one process alone", where="--measure", mend="leave --gpu "
            "and --count out",
        )  # fmt: skip
    if measure and (mean_length is not None or rows is not None):
        raise RecipeError(
            "real steps need the real rows", where="--measure", mend="leave --rows and --mean-length out"
        )  # fmt: skip


def given_bytes(text: str) -> float:
    """`24GB` -> 24e9; RecipeError for what is no size."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b)?\s*", text.lower())
    if found is None or (found[2] or "gb") not in _UNITS or float(found[1]) == 0:
        raise RecipeError(f"is no size of a memory ({text})", where="--fit", mend="such as 24GB or 80GB")
    return float(found[1]) * _UNITS[found[2] or "gb"]


def target_of(recipe: Recipe, gpu: str | None, count: int) -> Target:
    """The machine that the estimate is for: of the table, or this one."""
    if gpu is not None:
        device = find_device(gpu)
        return _gpu_target(device.name, count, device.memory_bytes, device)
    from whet.cli.this_machine import look_at_machine

    machine = look_at_machine()
    if machine.gpu_name is not None and recipe.train.device != "cpu":
        known = recognise(machine.gpu_name)
        total = known.memory_bytes if known is not None else machine.gpu_free_bytes
        return _gpu_target(machine.gpu_name, count, total, known)
    if recipe.train.device == "cuda":
        raise RecipeError(
            "train.device is cuda, and this machine has no GPU", where="whet estimate", mend="name one: --gpu h100"
        )
    return Target(
        name=f"this machine ({processor_name()})",
        device="cpu",
        num_ranks=count,
        compute_bytes=2 if multiplies_bfloat16() else 4,
        memory_bytes=free_memory_bytes(),
    )


def _gpu_target(name: str, count: int, memory_bytes: float | None, device: Device | None) -> Target:
    return Target(
        name=name, device="cuda", num_ranks=count, compute_bytes=2, memory_bytes=memory_bytes, gpu=device
    )  # fmt: skip


def look(
    recipe: Recipe, target: Target, *, num_rows: int | None, mean_length: float | None, longest: int | None,
    reads: bool, say: Say,
) -> Seen:  # fmt: skip
    """What `recipe` needs on `target`."""
    shape, folder = _shape_of(recipe, reads=reads), Path(recipe.model.id).expanduser()
    num_data_ranks = max(1, target.num_ranks // recipe.parallel.tensor)
    assume = partial(_assume, recipe, num_rows=num_rows, mean_length=mean_length, longest=longest)
    if num_rows is not None or mean_length is not None:
        rows = assume("no row was read")
    elif (reason := _why_not_read(recipe, reads=reads)) is not None:
        rows = assume(reason)
    else:
        rows = _read(recipe, num_data_ranks, assume, say)
        folder = _folder_of(recipe)
    files = _files_of(folder, shape)
    return Seen(recipe=recipe, foreseen=foresee(recipe, shape, rows, target, files), files=files)


def _shape_of(recipe: Recipe, *, reads: bool) -> ModelShape:
    if (shape := find_shape(recipe.model.id)) is None and reads:
        from whet.models.source import find_folder

        shape = find_shape(str(find_folder(recipe.model)))
    if shape is None:
        raise RecipeError(
            f"the shape of {recipe.model.id} is not known", where="model.id",
            mend="give --read, which fetches its config.json, or name a folder that has one: model.id=FOLDER",
        )  # fmt: skip
    return shape


def _folder_of(recipe: Recipe) -> Path:
    """Where the model lies, whose tokenizer was read."""
    from whet.models.source import find_folder

    return find_folder(recipe.model)


def _files_of(folder: Path, shape: ModelShape) -> WeightFiles | None:
    from whet.models.families import num_parameters

    sizes = [path.stat().st_size for path in folder.glob(_WEIGHTS)] if folder.is_dir() else []
    if not sizes:
        return None
    return WeightFiles(num_bytes=sum(sizes), bytes_per_weight=sum(sizes) / num_parameters(shape))


def _why_not_read(recipe: Recipe, *, reads: bool) -> str | None:
    """Why rows are not read; None where they are."""
    from whet.models.builtin import BUILTIN

    if find_spec("torch") is None or find_spec("transformers") is None:
        return "rows were not read, because torch is not installed"
    if reads:
        return None
    if recipe.model.id not in BUILTIN and not Path(recipe.model.id).expanduser().is_dir():
        return f"rows were not read, because the tokenizer of {recipe.model.id} is on the hub (--read fetches it)"
    far = [each.source for each in recipe.data.train if source_kind(each) not in ("file", "generated")]
    return f"rows were not read, because {far[0]} is on the hub (--read fetches it)" if far else None


def _read(
    recipe: Recipe, num_data_ranks: int, assume: Callable[[str], ForeseenRows], say: Say
) -> ForeseenRows:  # fmt: skip
    from whet.cli.quiet import quiet_libraries
    from whet.train.known_rows import read_rows

    quiet_libraries()
    try:
        return read_rows(recipe, num_data_ranks=num_data_ranks, say=say)
    except RecipeError:
        raise
    except WhetError as error:
        return assume(f"rows could not be read ({error.what})")


def _assume(
    recipe: Recipe, why: str, *, num_rows: int | None, mean_length: float | None, longest: int | None
) -> ForeseenRows:  # fmt: skip
    from whet.cli.preview import count_all

    unknown: list[str] = []
    counted = num_rows or count_all(recipe, unknown)
    if counted is None:
        raise RecipeError(f"{why}, and {unknown[0].removesuffix(': pass --rows')}", where="data.train",
                          mend="say how many there are: --rows N --mean-length T")  # fmt: skip
    return assume_rows(recipe, num_rows=counted, mean_length=mean_length, longest=longest, why=why)


def measure_here(seen: Seen, say: Say) -> Measured:
    """A few real passes of the recipe on this machine."""
    from whet.cli.quiet import quiet_libraries
    from whet.train.measured_steps import measure_steps

    quiet_libraries()
    return measure_steps(seen.recipe, seen.foreseen.disk.checkpoint_bytes, say)
