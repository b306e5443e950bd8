"""The arguments RECIPE and KEY=VALUE of the verbs that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.completion import recipe_paths

RecipeFile = Annotated[
    Path,
    typer.Argument(help="Recipe (YAML), or the YAML of another tool.", metavar="RECIPE", autocompletion=recipe_paths),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, such as optim.lr=1e-4.", metavar="[KEY=VALUE]...")
]
