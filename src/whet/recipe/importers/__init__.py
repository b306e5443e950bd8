"""Another tool's YAML -> a whet recipe, with an account of every key: mapped, without effect here, or not mapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from whet.errors import RecipeError
from whet.recipe.importers import axolotl, hugging_face, llama_factory, lora_ns
from whet.recipe.importers.sheet import Entry, Sheet, leaves_of
from whet.recipe.importers.text import in_schema_order, list_lines, recipe_text
from whet.recipe.importers.training_arguments import World
from whet.recipe.load import parse_recipe
from whet.recipe.problems import raise_together
from whet.recipe.schema import Recipe
from whet.recipe.yaml_tree import MapNode, parse_tree

TOOLS: tuple[tuple[Callable[[set[str]], bool], ModuleType], ...] = (
    (lora_ns.is_lora_ns, lora_ns),
    (llama_factory.is_llama_factory, llama_factory),
    (axolotl.is_axolotl, axolotl),
    (hugging_face.is_hugging_face, hugging_face),
)
"""(whether the keys at the top are its, its module), the most particular first."""

_PROCESSES = "num_processes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A foreign file as a recipe. Invariant: each of its leaves stands in exactly one of the three lists."""

    tool: str
    recipe: Recipe
    recipe_yaml: str
    """the settings that the file decides, each with its foreign key, without the lists"""
    mapped: tuple[Entry, ...]
    no_effect: tuple[Entry, ...]
    unmapped: tuple[Entry, ...]
    notes: tuple[str, ...]
    """settings that come from the tool's defaults, and other differences that no key of the file names"""

    def lines(self) -> list[str]:
        """The account for people."""
        return list_lines(self.mapped, self.no_effect, self.unmapped, self.notes)

    def text(self, file_name: str) -> str:
        """The recipe as a file: the account as a comment, then the settings."""
        head = [f"Imported from {file_name} ({self.tool}).", "", *self.lines()]
        return "".join(f"# {line}".rstrip() + "\n" for line in head) + self.recipe_yaml


def detect(text: str) -> ModuleType | None:
    """The importer for a YAML text; None when it is a recipe of whet's or nothing that is known."""
    try:
        root, _ = parse_tree(text, str)
    except RecipeError:
        return None
    if not isinstance(root, MapNode):
        return None
    keys = set(root.entries)
    if isinstance(root.entries.get("data"), MapNode) or {"version", "batch", "adapter"} & keys == {"version"}:
        return None
    return next((module for is_its, module in TOOLS if is_its(keys)), None)


def import_recipe(
    text: str, file_name: str, *, world_size: int | None = None, accelerate: str | None = None,
    base_folder: Path = Path(),
) -> Imported:  # fmt: skip
    """The whet recipe that means the same as `text`.

    `world_size` (or num_processes of an accelerate config, given as its text) is the number of processes that the
    file's batch per device is meant for. RecipeError when the file is no known tool's or trains something else than
    supervised fine-tuning does.
    """
    module = detect(text)
    if module is None:
        raise RecipeError(
            "is no YAML of lora-ns, TRL or Hugging Face's trainer, Axolotl or LLaMA-Factory",
            where=file_name,
            mend="a recipe of whet's own needs no import; see `whet recipe check`",
        )
    root, problems = parse_tree(text, lambda line: f"{file_name}:{line}")
    raise_together(problems, file_name)
    sheet = Sheet(leaves_of(root))
    world = _world(module, sheet, world_size, accelerate)
    if module is llama_factory:
        llama_factory.read(sheet, world, base_folder=base_folder)
    else:
        module.read(sheet, world)
    sheet.account_rest()
    tree = in_schema_order({"version": 1, **sheet.tree})
    recipe_yaml = recipe_text(tree, sheet.mapped)
    return Imported(
        tool=module.TOOL,
        recipe=parse_recipe(recipe_yaml, f"{file_name} (imported)"),
        recipe_yaml=recipe_yaml,
        mapped=tuple(sheet.mapped),
        no_effect=tuple(sheet.no_effect),
        unmapped=tuple(sheet.unmapped),
        notes=tuple(sheet.notes),
    )


def _world(module: ModuleType, sheet: Sheet, world_size: int | None, accelerate: str | None) -> World:
    """Who says for how many processes the file is meant: the caller, an accelerate config, the file, its tool."""
    if world_size is not None:
        return World(size=world_size, said_by="--world-size")
    if accelerate is not None:
        root, _ = parse_tree(accelerate, str)
        size = Sheet(leaves_of(root)).whole(_PROCESSES, 0)
        if size > 0:
            return World(size=size, said_by="num_processes of the accelerate config")
    for key in (f"accelerate.{_PROCESSES}", _PROCESSES):
        if sheet.whole(key, 0) > 0:
            return World(size=sheet.whole(key, 0), said_by=f"{key} of the file")
    world: World = module.WORLD
    return world
