"""A model folder handed to a server of the OpenAI kind: vLLM where it is installed, else transformers' own.

The server is a child process with an argument list, behind whet's guard; it ends with this process, and the folder
made for it is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from whet import cache, children
from whet.errors import RecipeError, WhetError
from whet.inference.serve_guard import CONTEXT, MODELS, TOKEN, is_loopback

Server = Literal["vllm", "transformers"]
FEWEST_TOKEN_CHARACTERS = 16
_SERVE_PACKAGES = ("fastapi", "uvicorn", "openai")
_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server listens, and what a request must bring."""

    host: str
    port: int
    token: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


def choose_server(requested: Literal["auto", "vllm", "transformers"]) -> Server:
    """vLLM where it is installed, unless one is named; RecipeError with the pip command for what is missing."""
    has_vllm = importlib.util.find_spec("vllm") is not None
    if requested == "vllm" and not has_vllm:
        raise RecipeError(
            "vLLM is not installed", mend="pip install 'whet[vllm]' (Linux with a GPU), or leave --server out"
        )
    if requested == "vllm" or (requested == "auto" and has_vllm):
        return "vllm"
    missing = [name for name in _SERVE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(
            f"transformers' server needs packages that are not installed: {', '.join(missing)}",
            mend="pip install 'whet[serve]'",
        )
    return "transformers"


def check_address(address: Address) -> None:
    """RecipeError where nobody can listen there, or where others could ask without a token."""
    if not is_loopback(address.host) and address.token is None:
        raise RecipeError(
            f"{address.host} can be reached from other machines, so requests must bring a token",
            mend="put one into an environment variable or a file: --api-key-env NAME or --api-key-file FILE",
        )
    if address.token is not None and len(address.token) < FEWEST_TOKEN_CHARACTERS:
        raise RecipeError(
            f"the token has {len(address.token)} characters, fewer than {FEWEST_TOKEN_CHARACTERS}",
            mend="make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    if address.token is not None and not (address.token.isascii() and address.token.isprintable()):
        raise RecipeError("the token holds characters that no HTTP header carries", mend="use letters and digits")
    try:
        family, *_, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # as the servers do: a connection that still closes is no reason to refuse
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise RecipeError(
            f"cannot listen there ({error.strerror or error})",
            where=f"{address.host}:{address.port}",
            mend="choose another --port, or end the program that uses this one",
        ) from error


def transformers_command(name: str, *, dtype: str, device: str, address: Address) -> list[str]:
    """The guarded `transformers serve`, to be run in the folder that holds the model folder `name`."""
    return [
        sys.executable, "-m", "whet.inference.serve_child", name, "--host", address.host, "--port", str(address.port),
        "--dtype", dtype, "--device", device,
    ]  # fmt: skip


def vllm_command(
    folder: Path, name: str, *, dtype: str, address: Address, base: Path | None = None, base_name: str | None = None,
    adapter: Path | None = None, max_lora_rank: int = 0,
) -> list[str]:  # fmt: skip
    """`vllm serve` of `folder`, or of `base` with `adapter`, asked as the tokenizer and template of `folder` say."""
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(base or folder),
        "--host", address.host, "--port", str(address.port), "--dtype", dtype,
        "--middleware", "whet.inference.serve_guard.Guard", "--disable-fastapi-docs",
    ]  # fmt: skip
    if adapter is None:
        return [*command, "--served-model-name", name]
    assert base_name is not None
    module = json.dumps({"name": name, "path": str(adapter), "base_model_name": base_name})
    return [
        *command, "--served-model-name", base_name, "--tokenizer", str(folder),
        "--chat-template", str(folder / "chat_template.jinja"), "--generation-config", str(folder),
        "--enable-lora", "--max-lora-rank", str(max_lora_rank), "--lora-modules", module,
    ]  # fmt: skip


def server_environment(server: Server, name: str, address: Address, *, context: int | None = None) -> dict[str, str]:
    """Ours, with the guard's settings. Nothing is fetched: all that is served lies on the disk.

    `context`: the tokens that the model reads.
    """
    mine = {TOKEN: address.token or "", "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **mine, MODELS: name if server == "transformers" else "", CONTEXT: str(context or "")}


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder beside whet's other cached files, removed at the end; those of processes that were killed, at the start.

    Whoever uses one holds its lock, which the kernel releases with its holder.
    """
    parent = cache.make_folder(cache.cache_folder() / "serve")
    for lock in parent.glob("*.lock"):
        with lock.open("w") as file, contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(dir=parent, suffix=".lock")
    lock, folder = Path(name), Path(name).with_suffix("")
    with os.fdopen(descriptor, "w") as file:
        # without locks on this file system nobody takes the folder for an abandoned one
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def run_server(
    command: list[str], *, folder: Path, environment: Mapping[str, str], address: Address,
    on_ready: Callable[[], None],
) -> None:  # fmt: skip
    """Run the server in `folder` until it is stopped by Ctrl-C or SIGTERM; `on_ready` once it listens.

    WhetError when it ends by itself.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL)  # noqa: S603 - a list, no shell
    try:
        while process.poll() is None and not _listens(address):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if process.poll() is None:
            on_ready()
        code = process.wait()
    except KeyboardInterrupt:
        return
    finally:
        children.end(process)
        signal.signal(signal.SIGTERM, before)
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
        raise WhetError(f"the server {how}; what it said stands above", mend="see its last lines")


def _listens(address: Address) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 - asked, not bound
    try:
        with socket.create_connection((host, address.port), timeout=1.0):
            return True
    except OSError:
        return False
