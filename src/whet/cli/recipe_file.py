"""Any recipe file of the command line: whet's own, or another tool's, which is imported and accounted for aloud."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet.recipe.importers import Imported
    from whet.recipe.schema import Recipe

Say = Callable[[str], None]


def load_any_recipe(path: str | Path, overrides: Sequence[str], say: Say) -> Recipe:
    """The recipe of `path` with `overrides` over it.

    Of a foreign file, `say` is told what was mapped, what has no effect and what could not be mapped. Its global batch
    stays what it was on the processes that it was written for, however many train now. RecipeError as `load_recipe`.
    """
    from whet.recipe import load_recipe, parse_recipe
    from whet.recipe.importers import detect

    text = _foreign_text(Path(path))
    module = detect(text) if text is not None else None
    if text is None or module is None:
        return load_recipe(path, overrides)
    imported = import_file(Path(path))
    say(f"{path}: read as {imported.tool}")
    for line in imported.lines():
        say(f"  {line}")
    return parse_recipe(imported.recipe_yaml, f"{path} (imported)", overrides)


def text_of_recipe(path: Path) -> tuple[str, str]:
    """(YAML, name of its places) of a recipe that `load_any_recipe` has accepted; an imported one as whet wrote it."""
    from whet.recipe.importers import detect

    text = _foreign_text(path) or ""
    if detect(text) is None:
        return text, str(path)
    return import_file(path).recipe_yaml, f"{path} (imported)"


def import_file(path: Path, *, world_size: int | None = None, accelerate_config: Path | None = None) -> Imported:
    """A foreign file as a recipe; see `whet.recipe.importers.import_recipe`."""
    from whet.errors import RecipeError
    from whet.recipe.importers import import_recipe

    text = _foreign_text(path)
    if text is None:
        raise RecipeError("is no readable YAML file", where=str(path))
    accelerate = _foreign_text(accelerate_config) if accelerate_config is not None else None
    if accelerate_config is not None and accelerate is None:
        raise RecipeError("is no readable YAML file", where=str(accelerate_config))
    return import_recipe(text, str(path), world_size=world_size, accelerate=accelerate)


def _foreign_text(path: Path) -> str | None:
    """The text of a file that may be another tool's; None leaves the complaint to `load_recipe`."""
    from whet.recipe.yaml_tree import MAX_BYTES

    try:
        return path.read_text(encoding="utf-8-sig") if path.stat().st_size <= MAX_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None
