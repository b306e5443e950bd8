"""`whet export RUN --to FORMAT`: the run as other tools load it, read back and compared with what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from whet.cli import verbosity
from whet.cli.completion import run_paths
from whet.cli.output import Json, give, say


def export(
    run: Annotated[
        Path,
        typer.Argument(help="Run, checkpoint or adapter folder.", metavar="RUN_OR_ADAPTER", autocompletion=run_paths),
    ],
    to: Annotated[str, typer.Option(help="Format: adapter, hf, vllm, gguf, gguf-lora or ollama.", metavar="FORMAT")],
    base: Annotated[
        str | None, typer.Option(help="Base model; default the one that the run's recipe names.", metavar="MODEL")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write; default beside RUN.", metavar="FOLDER")] = None,
    dtype: Annotated[str, typer.Option(help="Number format of the weights; auto: as the format says.")] = "auto",
    proof: Annotated[bool, typer.Option("--proof/--no-proof", help="Compare the result with what was trained.")] = True,
    as_json: Json = False,
) -> None:
    """Write RUN for another tool: an adapter as plain LoRA (`adapter`, `vllm`, `gguf-lora`) or the merged model (`hf`,
    `gguf`, `ollama`).

    Source and result then answer the same prompts. If they differ by more than the rounding of the file, nothing is
    left and the exit code is 8.
    """
    run_export(run, to, base=base, output=output, dtype=dtype, is_proved=proof, as_json=as_json)


def run_export(
    run: Path, to: str, *, base: str | None, output: Path | None, dtype: str, is_proved: bool, as_json: bool = False
) -> None:
    """Look the format up and export; RecipeError for a format or dtype that there is not."""
    from whet.allocator import return_large_blocks
    from whet.cli.quiet import quiet_libraries
    from whet.errors import RecipeError
    from whet.export.request import Dtype

    verbosity.speak_to_program(as_json)
    if dtype not in get_args(Dtype):
        raise RecipeError(f"there is no dtype {dtype!r}", mend=f"choose among {', '.join(get_args(Dtype))}")
    quiet_libraries()
    return_large_blocks()
    from whet.export import EXPORTS, Request

    if to not in EXPORTS:
        raise RecipeError(f"there is no format {to!r} to export to", mend=f"choose among {', '.join(EXPORTS)}")
    chosen: Any = dtype
    request = Request(run_folder=run, output=output, base=base, dtype=chosen, is_proved=is_proved, say=say)
    written = EXPORTS[to](request)
    say(f"written: {written}")
    if as_json:
        from whet.export.proof import PROOF
        from whet.models.folder import read_json

        give({"written": str(written), "format": to, "proof": read_json(written / PROOF)})
