"""Where the hub is, whose token is sent, and how long it may be silent."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from whet.hub.errors import Kind, Request

_log = logging.getLogger(__name__)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Where the hub is and how long it may take; the defaults come from the environment, read when constructed."""

    endpoint: str = field(default_factory=lambda: os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"))
    cache_dir: Path | None = None
    """huggingface_hub's cache; None: `$HF_HUB_CACHE` or `$HF_HOME/hub`"""
    is_offline: bool = field(default_factory=lambda: _is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE"))
    request_seconds: float = 10.0
    """longest silence of the server in one request"""
    listing_seconds: float = 25.0
    """longest time for the list of files, however slowly it trickles in"""
    builder_seconds: float = 50.0
    """longest time for what the datasets library reads of a dataset before its rows, and for its own work on that"""
    silence_seconds: float = 25.0
    """longest time in which no byte of any file arrives, all attempts taken together"""


def request_for(repo_id: str, revision: str | None, settings: HubSettings, *, kind: Kind = "model") -> Request:
    """The request as messages tell it; warns when a token would travel unencrypted."""
    request = Request(
        repo_id=repo_id, revision=revision, endpoint=settings.endpoint, token_source=token_source(), kind=kind
    )
    warn_about_plain_http(request)
    return request


def token() -> str | None:
    """The token that is sent, or None."""
    from huggingface_hub import get_token

    return None if _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") else get_token()


def token_source() -> str | None:
    """Where the token comes from, in words; never the token."""
    if token() is None:
        return None
    name = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    return f"the environment variable {name}" if name else "the token file of `hf auth login`"


def warn_about_plain_http(request: Request) -> None:
    """One warning where the endpoint is no https and not this machine, and a token is sent."""
    parts = urlsplit(request.endpoint)
    if request.token_source and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        _log.warning(
            "HF_ENDPOINT is plain http: the token from %s travels unencrypted to %s; use https, or unset the token",
            request.token_source,
            parts.hostname,
        )
