"""Texts without secrets: the last look at what libraries say before it reaches a screen, a log or a file.

whet's own sentences name where a token comes from, never the token. A library's may hold an address with a password in
it, or a header. Imports nothing of whet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_USER_INFO = re.compile(r"(?<=://)[^/@\s'\"]+@")
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY)", re.IGNORECASE)
_FEWEST_CHARACTERS = 8
"""of a secret: a shorter value is also an ordinary word"""
_HIDDEN = "***"


def without_secrets(text: str, variables: Mapping[str, str] = os.environ) -> str:
    """`text` without the values of environment variables that are named like secrets, and without the user name and
    password of an address."""
    for value in sorted(secret_values(variables), key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    return _USER_INFO.sub(f"{_HIDDEN}@", text)


def secret_values(variables: Mapping[str, str] = os.environ) -> set[str]:
    """Values of the variables whose names say that they are secret (HF_TOKEN, WANDB_API_KEY, ...)."""
    return {
        value
        for name, value in variables.items()
        if _SECRET_NAME.search(name) and len(value) >= _FEWEST_CHARACTERS and not os.path.isabs(value)  # noqa: PTH117
    }
