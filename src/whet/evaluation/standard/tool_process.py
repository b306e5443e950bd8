"""Another program's run: started with a list of arguments, watched while it works, its last words kept for the error.

The program's progress bars become calls of `progress`. Where it fails, the kind of error decides the exit code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from whet import children
from whet.errors import HubError, OutOfMemoryError, RecipeError, StorageError, WhetError

# `Running requests:  50%|#####     | 2/4 [` of tqdm, `... progress: 6/6 (100.0%)` of NeMo Evaluator
_BAR = re.compile(
    r"(?:^(?P<what>[^|]{0,80}?):?\s*\d{1,3}%\|[^|]*\||^.{0,120}\bprogress:)\s*(?P<done>\d+)/(?P<all>\d+)\s"
)
_LAST_LINES = 12
_LONGEST_LINE = 4096

_UNKNOWN_TASK = "Tasks? (?:were )?not found|No such task|[Uu]nknown (?:task|benchmark)|[Bb]enchmark .{1,80} not found"
_UNREACHABLE = (
    "OfflineModeIsEnabled|LocalEntryNotFound|ConnectionError|ConnectError|Couldn't (?:reach|find)|HfHubHTTPError|"
    "GatedRepo|RepositoryNotFound|Max retries exceeded|Name or service not known|Cannot connect to host"
)
_NO_MEMORY = "OutOfMemoryError|MemoryError|Cannot allocate memory|CUDA out of memory"

# what the last lines of a failed program say, the kind of error, how to mend it; the first that fits counts
_KINDS: tuple[tuple[str, type[WhetError], str], ...] = (
    (_UNKNOWN_TASK, RecipeError, "name a task that the tool knows, or the folder that defines it"),
    (_UNREACHABLE, HubError, "rows or model could not be reached: check the network, HF_TOKEN and the address"),
    (_NO_MEMORY, OutOfMemoryError, "run it where there is more memory, or on fewer rows"),
    ("No space left on device|Disk quota exceeded", StorageError, "free space on that disk"),
)

Progress = Callable[[str, int, int], None]


def interpreter_versions(python: str, packages: Sequence[str], *, where: str, mend: str) -> dict[str, str]:
    """Versions of `packages` in the environment of the interpreter `python`; absent ones are left out.

    RecipeError where `python` cannot be run.
    """
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user named, our own text, no shell
            [python, "-c", code, *packages], capture_output=True, text=True, check=False, timeout=120,
            env=tool_environment(),
        )  # fmt: skip
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise RecipeError(f"{python} is no Python that can be run ({error})", where=where, mend=mend) from error
    if not isinstance(found, dict):
        raise RecipeError(f"{python} is no Python that can be run", where=where, mend=mend)
    return {str(name): str(version) for name, version in found.items()}


def tool_environment(others: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for another program: ours, without the folder of the call among its modules."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", **(others or {})}


def run_tool(
    command: Sequence[str], *, name: str, log: Path, progress: Progress, what: str, secrets: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Run `command` to its end; everything it says goes to `log`, without the `secrets`.

    Raises an error of the kind that its last lines name, with these lines; ended here, it ends with us.
    """
    last: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        process = subprocess.Popen(  # noqa: S603 - a list, no shell
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=tool_environment(environment),
        )  # fmt: skip
    except OSError as error:
        raise RecipeError(f"{name} cannot be started ({error.strerror})", where=command[0]) from error
    with process, log.open("w", encoding="utf-8") as log_file:
        assert process.stdout is not None
        try:
            for line in _lines(process.stdout):
                shown = _without(line, secrets).rstrip()
                if bar := _BAR.match(shown):
                    progress(f"{what}: {(bar['what'] or '').strip()}".rstrip(": "), int(bar["done"]), int(bar["all"]))
                elif shown:
                    last.append(shown)
                    log_file.write(f"{shown}\n")
            code = process.wait()
        finally:
            children.end(process)
    if code != 0:
        raise _failure(name, code, list(last), log)


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines as a terminal shows them: a carriage return ends one too."""
    waiting = b""
    while chunk := os.read(stream.fileno(), 65536):
        *whole, waiting = re.split(rb"[\r\n]", waiting + chunk)
        for line in whole:
            yield line[:_LONGEST_LINE].decode("utf-8", "replace")
        waiting = waiting[:_LONGEST_LINE]
    if waiting:
        yield waiting.decode("utf-8", "replace")


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _failure(name: str, code: int, last: Sequence[str], log: Path) -> WhetError:
    said = "\n  ".join(last[-6:]) or "nothing"
    ended = f"was ended by signal {-code}" if code < 0 else f"failed with exit status {code}"
    what = f"{name} {ended}; its last lines:\n  {said}"
    # of a traceback the last line says what happened, the others where
    for lines in (last[-1:], last):
        for pattern, kind, mend in _KINDS:
            if re.search(pattern, "\n".join(lines)):
                return kind(what, where=str(log), mend=mend)
    if code == -9:
        return OutOfMemoryError(what, where=str(log), mend="most often the memory did not suffice: run it with more")
    return WhetError(what, where=str(log), mend=f"the whole of what {name} said is in that file")
