"""What went wrong with the hub, in one sentence per cause; no message ever holds a token or a URL's user part."""

from __future__ import annotations

import difflib
import errno
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from whet import cache
from whet.errors import HubError, StorageError

KNOWN_IDS = (
    "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.2-3B-Instruct",
    "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-8B-Instruct",
    "nvidia/Llama-3.1-Nemotron-Nano-4B-v1.1",
    "nvidia/Llama-3.1-Nemotron-Nano-8B-v1",
)
"""Only for "did you mean": a slip of the fingers in one of these is common."""


class HubUnreachableError(HubError):
    """The hub gave no answer or is out of order: a copy in the cache may stand in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked of the hub, as far as a message may tell."""

    model_id: str
    revision: str | None
    endpoint: str
    token_source: str | None
    """where the token came from, in words; None when none was sent"""

    @property
    def host(self) -> str:
        """The hub's host without user name and password."""
        return urlsplit(self.endpoint).hostname or self.endpoint.rpartition("@")[2]


@contextmanager
def explained(request: Request, *, file: str = "") -> Iterator[None]:
    """Turn whatever huggingface_hub raises inside into a HubError or StorageError that names cause and mend."""
    try:
        yield
    except failures() as error:
        # With the server's answer lost, huggingface_hub says "not found locally"; the cause says what happened.
        cause = error.__cause__ if type(error).__name__ == "LocalEntryNotFoundError" and error.__cause__ else error
        raise _explain(cause, request, file) from error


def failures() -> tuple[type[Exception], ...]:
    """Everything huggingface_hub raises when a request fails; ValueError and the like for an answer of another kind."""
    from huggingface_hub.errors import XetDownloadError

    # huggingface_hub 2 speaks through httpx2, 1.x through httpx; their errors are no OSErrors.
    libraries = [importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
    transport = [library.TransportError for library in libraries]
    return (OSError, ValueError, KeyError, TypeError, XetDownloadError, *transport)


def _explain(error: BaseException, request: Request, file: str) -> HubError | StorageError:
    response = getattr(error, "response", None)
    if response is not None:
        return _refused(response, request)
    what = f"{file} of {request.model_id}" if file else request.model_id
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return cache.no_space(Path(error.filename or "."), needed_bytes=None)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return StorageError(
            "the hub cache cannot be written", where=error.filename, mend="set HF_HOME to a folder that you can write"
        )
    if "Consistency check failed" in str(error):
        return HubError(f"{what} arrived incomplete", mend="run the same command again: the download is repeated")
    if type(error).__name__ == "HFValidationError":
        return HubError(f"{what!r} is not a hub id", mend=f"{_nearest(request.model_id)}hub ids look like OWNER/NAME")
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return HubUnreachableError(
            f"{request.host} is too slow: no complete answer for {what}",
            mend="try again later, or set HF_HUB_OFFLINE=1 to use what is in the cache",
        )
    if isinstance(error, ValueError | KeyError | TypeError):
        return HubUnreachableError(
            f"{request.host} does not answer like a hub ({type(error).__name__})",
            mend="check HF_ENDPOINT, and whether this network asks you to log in first",
        )
    return HubUnreachableError(
        f"{request.host} could not be reached for {what} ({type(error).__name__})",
        mend="check network, proxy and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use what is in the cache",
    )


def _refused(response: Any, request: Request) -> HubError:
    """The HubError for an HTTP answer of 400 and above."""
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    page = f"https://{request.host}/{request.model_id}"
    if code == "GatedRepo":
        token = "" if request.token_source else ", then set HF_TOKEN (no token was sent)"
        return HubError(
            f"{request.model_id} is gated: its licence has to be accepted first (HTTP {status})",
            mend=f"visit {page} and accept the licence{token}",
        )
    if code == "RevisionNotFound":
        return HubError(
            f"{request.model_id} has no revision {request.revision!r}",
            mend=f"see {page}/commits/main for its revisions",
        )
    if status == 401 and request.token_source:
        return HubError(
            f"the token from {request.token_source} is not valid (HTTP 401)",
            mend="make a new token in the hub's settings, or remove this one for a public model",
        )
    if status == 403:
        sent = f"the token from {request.token_source}" if request.token_source else "a request without a token"
        return HubError(
            f"{sent} may not read {request.model_id} (HTTP 403)", mend="use a token with read access to this model"
        )
    if status in (401, 404):
        private = "" if request.token_source else ", or it is private and no token was sent: set HF_TOKEN"
        return HubError(
            f"no model {request.model_id} on {request.host} (HTTP {status}){private}",
            mend=f"{_nearest(request.model_id)}check model.id for a typing error",
        )
    if status == 429:
        wait = response.headers.get("Retry-After", "")
        seconds = f" in {wait} s" if wait.isdigit() else " in some minutes"
        return HubUnreachableError(
            f"{request.host} answers no more requests for now (HTTP 429, too many requests)",
            mend=f"try again{seconds}; with HF_TOKEN set the limit is higher",
        )
    if status >= 500:
        return HubUnreachableError(f"{request.host} is out of order (HTTP {status})", mend="try again in some minutes")
    return HubError(f"{request.host} refused the request for {request.model_id} (HTTP {status})", mend=f"see {page}")


def _nearest(model_id: str) -> str:
    near = difflib.get_close_matches(model_id.lower(), [known.lower() for known in KNOWN_IDS], n=1, cutoff=0.75)
    known = next((known for known in KNOWN_IDS if near and known.lower() == near[0]), None)
    return f"did you mean {known}? " if known else ""
