"""`whet merge RUN`: the run's adapter merged into its base, as a whole model in Hugging Face format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.completion import run_paths
from whet.cli.output import Json


def merge(
    run: Annotated[
        Path,
        typer.Argument(help="Run, checkpoint or adapter folder.", metavar="RUN_OR_ADAPTER", autocompletion=run_paths),
    ],
    base: Annotated[
        str | None, typer.Option(help="Base model; default the one that the run's recipe names.", metavar="MODEL")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write; default beside RUN.", metavar="FOLDER")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto (the base's own).")] = "auto",
    proof: Annotated[bool, typer.Option("--proof/--no-proof", help="Compare the result with what was trained.")] = True,
    as_json: Json = False,
) -> None:
    """Write RUN's model as one: W + (alpha / r) B A, computed in float32 and cast once, then read back and compared.

    Weights pass through one by one, so merging needs memory for one of them; the comparison needs it for the model in
    float32 (`--no-proof` leaves it out and says so in proof.json).
    """
    from whet.cli.export import run_export

    run_export(run, "hf", base=base, output=output, dtype=dtype, is_proved=proof, as_json=as_json)
