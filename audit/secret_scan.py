"""Tokens and private keys that stand in files, by their form. Values that are shorter than real ones are examples."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

FORMS: dict[str, re.Pattern[str]] = {
    "Hugging Face token": re.compile(r"\bhf_[A-Za-z]{30,}\b"),
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "GitHub token": re.compile(r"\b(?:gh[opsur]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b"),
    "GitLab token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}\b"),
    "OpenAI-style key": re.compile(r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}\b"),
    "NVIDIA key": re.compile(r"\bnvapi-[A-Za-z0-9_-]{40,}\b"),
    "Slack token": re.compile(r"\bxox[abpr]-[A-Za-z0-9-]{20,}\b"),
    "Weights & Biases key": re.compile(r"(?i)wandb[\w ]{0,20}key[\"' ]*[=:][\"' ]*[0-9a-f]{40}\b"),
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"),
    "password in an address": re.compile(
        r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"{}<>$]+:[^\s/@'\"{}<>$]{8,}@[\w-]+\.[\w.-]+"
    ),
}
"""kind -> what it looks like"""
_MOST_BYTES = 20_000_000


def find_secrets(paths: Iterable[Path], root: Path) -> list[str]:
    """`file:line: kind` of everything that looks like a secret; never the secret itself."""
    found = []
    for path in paths:
        if path.is_symlink() or path.stat().st_size > _MOST_BYTES:
            continue
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        text = content.decode("utf-8", errors="replace")
        for kind, form in FORMS.items():
            for match in form.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path.relative_to(root)}:{line}: {kind}")
    return sorted(found)
