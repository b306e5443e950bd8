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
from typing import Any, Literal
from urllib.parse import urlsplit

from whet import cache
from whet.errors import HubError, RecipeError, StorageError

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


Kind = Literal["model", "dataset"]


class HubUnreachableError(HubError):
    """The hub gave no answer or is out of order: a copy in the cache may stand in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked of the hub, as far as a message may tell."""

    repo_id: str
    revision: str | None
    endpoint: str
    token_source: str | None
    """where the token came from, in words; None when none was sent"""
    kind: Kind = "model"

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        folder = "datasets/" if self.kind == "dataset" else ""
        return f"https://{self.host}/{folder}{self.repo_id}"

    @property
    def host(self) -> str:
        """The hub's host without user name and password."""
        return urlsplit(self.endpoint).hostname or self.endpoint.rpartition("@")[2]


@contextmanager
def explained(request: Request, *, file: str = "") -> Iterator[None]:
    """Turn whatever huggingface_hub raises inside into a HubError or StorageError that names cause and mend."""
    try:
        yield
    except (HubError, StorageError):
        raise
    except failures() as error:
        raise explain(error, request, file) from error


def failures() -> tuple[type[Exception], ...]:
    """Everything huggingface_hub raises when a request fails; ValueError and the like for an answer of another kind."""
    from huggingface_hub.errors import XetDownloadError

    # huggingface_hub 2 speaks through httpx2, 1.x through httpx; their errors are no OSErrors.
    libraries = [importlib.import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
    requests = [library.RequestError for library in libraries]
    # a HubError is what `explained` made of one of them in a thread of its own
    return (OSError, ValueError, KeyError, TypeError, XetDownloadError, *requests)


def explain(error: BaseException, request: Request, file: str = "") -> HubError | RecipeError | StorageError:
    """The error of whet for one of `failures`."""
    if type(error).__name__ == "LocalEntryNotFoundError" and error.__cause__:
        error = error.__cause__  # huggingface_hub says "not found locally"; the cause says what happened
    from huggingface_hub import constants

    response = getattr(error, "response", None)
    if response is not None:
        return _refused(response, request)
    what = f"{file} of {request.repo_id}" if file else request.repo_id
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return cache.no_space(Path(error.filename or "."), needed_bytes=None)
    if "Not enough disk space" in str(error):
        return cache.no_space(Path(constants.HF_HOME), needed_bytes=None)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return StorageError(
            "the hub cache cannot be written", where=error.filename, mend="set HF_HOME to a folder that you can write"
        )
    if type(error).__name__ == "TooManyRedirects":
        return HubUnreachableError(
            f"{request.host} sends from one address to the next and back again",
            mend="check HF_ENDPOINT and the proxy, and whether this network asks you to log in first",
        )
    if any(said in str(error) for said in ("Consistency check failed", "without sending complete message body")):
        return HubError(f"{what} arrived incomplete", mend="run the same command again: the download is repeated")
    if type(error).__name__ == "HFValidationError":
        if request.kind == "dataset":
            mend = "write OWNER/NAME or a file"
            return RecipeError("is neither a file nor a hub id", where=request.repo_id, mend=mend)
        return HubError(f"{what!r} is not a hub id", mend=f"{_nearest(request.repo_id)}hub ids look like OWNER/NAME")
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
    if code == "GatedRepo":
        token = "" if request.token_source else ", then set HF_TOKEN (no token was sent)"
        return HubError(
            f"{request.repo_id} is gated: its conditions have to be accepted first (HTTP {status})",
            mend=f"visit {request.page} and accept the licence or conditions{token}",
        )
    if code == "RevisionNotFound":
        return HubError(
            f"{request.repo_id} has no revision {request.revision!r}",
            mend=f"see {request.page}/commits/main for its revisions",
        )
    if status == 401 and request.token_source:
        return HubError(
            f"the token from {request.token_source} is not valid (HTTP 401)",
            mend="make a new token in the hub's settings, or remove this one for what is public",
        )
    if status == 403:
        sent = f"the token from {request.token_source}" if request.token_source else "a request without a token"
        return HubError(
            f"{sent} may not read {request.repo_id} (HTTP 403)",
            mend="use a token with read access to this {request.kind}",
        )
    if status in (401, 404):
        key = "model.id" if request.kind == "model" else "`source`"
        private = "" if request.token_source else ", or it is private and no token was sent: set HF_TOKEN"
        return HubError(
            f"no {request.kind} {request.repo_id} on {request.host} (HTTP {status}){private}",
            mend=f"{_nearest(request.repo_id)}check {key} for a typing error",
        )
    if status == 429 or status >= 500:
        return _unwell(request, status, response.headers.get("Retry-After", ""))
    return HubError(
        f"{request.host} refused the request for {request.repo_id} (HTTP {status})", mend=f"see {request.page}"
    )


def given_up(request: Request, status: int | None, silence_seconds: float) -> HubError:
    """The HubError when no byte came for so long; `status` is what the hub answered meanwhile, if it did."""
    if status is not None and (status == 429 or status >= 500):
        return _unwell(request, status, "")
    return HubUnreachableError(
        f"{request.host} stopped sending {request.repo_id}: nothing came for {silence_seconds:g} s",
        mend="check the network and run the same command again: files that are whole are not fetched twice",
    )


def _unwell(request: Request, status: int, retry_after: str) -> HubError:
    """The HubError of a hub that answers nobody at present."""
    if status != 429:
        return HubUnreachableError(f"{request.host} is out of order (HTTP {status})", mend="try again in some minutes")
    wait = f" in {retry_after} s" if retry_after.isdigit() else " in some minutes"
    return HubUnreachableError(
        f"{request.host} answers no more requests for now (HTTP 429, too many requests)",
        mend=f"try again{wait}; with HF_TOKEN set the limit is higher",
    )


def _nearest(model_id: str) -> str:
    near = difflib.get_close_matches(model_id.lower(), [known.lower() for known in KNOWN_IDS], n=1, cutoff=0.75)
    known = next((known for known in KNOWN_IDS if near and known.lower() == near[0]), None)
    return f"did you mean {known}? " if known else ""
