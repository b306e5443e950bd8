"""`python merge_adapter.py --base_model MODEL --adapter_path RUN --output_path FOLDER` is `whet merge RUN ...`.

Scripts that name the base in a file may give `--config RECIPE` instead of `--base_model`.
"""

from __future__ import annotations

import argparse
import sys

from whet.cli.main import leave_by_exit_code, main


def whet_arguments(arguments: list[str]) -> list[str]:
    """The arguments of the command `whet` that mean the same."""
    parser = argparse.ArgumentParser(prog="merge_adapter.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--adapter_path", required=True, metavar="RUN", help="run, checkpoint or adapter folder")
    parser.add_argument("--output_path", required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--base_model", metavar="MODEL", help="base; default the one that the run's recipe names")
    parser.add_argument("--config", metavar="RECIPE", help="recipe (or another tool's YAML) that names the base")
    parser.add_argument("--push_to_hub", action="store_true", help="not done here: whet push, after a look")
    parser.add_argument("--hub_model_id", metavar="ID", help="see --push_to_hub")
    known = parser.parse_args(arguments)
    if known.push_to_hub or known.hub_model_id:
        _refuse_to_push(known.output_path, known.hub_model_id or "OWNER/NAME")
    base = known.base_model or (_base_of(known.config) if known.config else None)
    named = [] if base is None else [f"--base={base}"]
    return ["merge", known.adapter_path, f"--output={known.output_path}", *named]


def _refuse_to_push(folder: str, hub_id: str) -> None:
    from whet.errors import RecipeError

    raise RecipeError(
        "--push_to_hub: merging and publishing are two steps, so that nothing leaves this machine unseen",
        mend=f"run this without it, look at {folder}, then: whet push {folder} {hub_id}",
    )


def _base_of(recipe: str) -> str:
    from whet.cli.output import say
    from whet.cli.recipe_file import load_any_recipe

    return load_any_recipe(recipe, (), say).model.id


def run() -> None:
    """Translate, then run."""
    sys.argv[1:] = whet_arguments(sys.argv[1:])
    main()


if __name__ == "__main__":
    leave_by_exit_code(run)
