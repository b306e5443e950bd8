"""`whet serve RUN_OR_MODEL`: hand a model to a server of the OpenAI kind, asked as it was asked in training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from whet.cli.completion import run_paths
from whet.cli.output import say

if TYPE_CHECKING:
    from whet.export.served import ServedModel
    from whet.inference.serve import Address, Server


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="Run, checkpoint, adapter or model folder, hub id or built-in name.", autocompletion=run_paths
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Where to listen; any but this machine's own needs a token.", metavar="HOST")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.", min=1, max=65535)] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the token of requests.", metavar="NAME")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File that holds the token of requests.", metavar="FILE")
    ] = None,
    server: Annotated[
        Literal["auto", "vllm", "transformers"], typer.Option(help="auto: vLLM where it is installed.")
    ] = "auto",
    base_model: Annotated[str | None, typer.Option(help="Base of an adapter folder without a recipe.")] = None,
) -> None:
    """Serve MODEL under the run's name at http://HOST:PORT/v1 until Ctrl-C.

    vLLM where it is installed (base with adapter), else `transformers serve` (pip install 'whet\\[serve]'; an
    adapter is merged into a folder that is removed at the end). Requests are written as the run's recipe says.
    """
    from whet.inference import serve as serving

    address = serving.Address(host=host, port=port, token=_read_token(api_key_env, api_key_file))
    chosen = serving.choose_server(server)
    serving.check_address(address)
    with serving.work_folder() as place:
        served = _write(place, model, base_model, keeps_adapter=chosen == "vllm")
        say(f"{served.name}: {served.what}; starting {chosen} ...")
        serving.run_server(
            _command(chosen, served, address),
            folder=place,
            environment=serving.server_environment(chosen, served.name, address, context=served.context),
            address=address,
            on_ready=lambda: _tell(served, address),
        )


def _read_token(variable: str | None, file: Path | None) -> str | None:
    import os

    from whet.errors import RecipeError

    if variable is not None and file is not None:
        raise RecipeError("two places for one token", mend="give either --api-key-env or --api-key-file")
    if variable is not None:
        if not os.environ.get(variable):
            raise RecipeError(f"the environment variable {variable} is not set or empty", mend=f"export {variable}=...")
        return os.environ[variable]
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read ({error})", where=str(file), mend="name a file with the token") from error


def _write(place: Path, model: str, base_model: str | None, *, keeps_adapter: bool) -> ServedModel:
    from whet.allocator import return_large_blocks
    from whet.cli.quiet import quiet_libraries
    from whet.export.served import write_served

    quiet_libraries()
    return_large_blocks()
    return write_served(place, model, base_model=base_model, keeps_adapter=keeps_adapter, say=say)


def _command(server: Server, served: ServedModel, address: Address) -> list[str]:
    from whet.export.adapter import VLLM_RANKS
    from whet.inference import serve as serving

    if server == "transformers":
        return serving.transformers_command(served.name, dtype=served.dtype, device=served.device, address=address)
    return serving.vllm_command(
        served.folder, served.name, dtype=served.dtype, address=address, base=served.base, base_name=served.base_name,
        adapter=served.adapter,
        max_lora_rank=next(choice for choice in VLLM_RANKS if choice >= served.adapter_rank),
    )  # fmt: skip


def _tell(served: ServedModel, address: Address) -> None:
    key = "the token" if address.token else "any"
    say(f"{served.name} answers at {address.url} (api_key: {key}; model: {served.name}). Ctrl-C ends it.")
    if address.token and not address.host.startswith(("127.", "localhost", "::1")):
        say("  token and texts travel unencrypted: put a proxy with TLS in front where the network is not yours")
