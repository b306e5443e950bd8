"""Keys to the hub and to trackers: whether there is one, never what it is. Asks no server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from whet.doctor.finding import Finding
from whet.hub.settings import HubSettings, token_source
from whet.redact import without_secrets


def check_access(variables: Mapping[str, str] = os.environ) -> list[Finding]:
    """Token of the hub, where the hub is, key of Weights & Biases."""
    source = token_source()
    return [_token(source), _hub(HubSettings(), source), *_tracker_key(variables)]


def _token(source: str | None) -> Finding:
    return Finding(
        check="hub token",
        state="good" if source else "note",
        found=f"there is one, from {source}" if source else "none",
        why="models and datasets behind conditions (Llama) and pushing need one; what is public does not",
        mend="" if source else "hf auth login, or set HF_TOKEN (huggingface-cli, which guides name, is gone)",
    )


def _hub(settings: HubSettings, source: str | None) -> Finding:
    where = without_secrets(settings.endpoint)
    parts = urlsplit(settings.endpoint)
    is_open = parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")
    if settings.is_offline:
        return Finding(
            check="hub",
            state="note",
            found="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: it is not asked",
            why="what is not in the cache cannot be fetched",
            mend="unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to fetch something new",
        )
    return Finding(
        check="hub",
        state="note" if is_open and source else "good",
        found=where,
        why="a token travels unencrypted to it"
        if is_open and source
        else "not asked here; recipes may name its models",
        mend="use https, or unset the token" if is_open and source else "",
    )


def _tracker_key(variables: Mapping[str, str]) -> list[Finding]:
    has_key = bool(variables.get("WANDB_API_KEY"))
    if not has_key:
        return []
    return [
        Finding(
            check="WANDB_API_KEY",
            state="good",
            found="set",
            why="Weights & Biases is told of a run only where the recipe says `tracked_as.online: true`",
        )
    ]
