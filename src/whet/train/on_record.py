"""What later readers of a run need to know of its beginning: where each setting came from, and every package.

settings.json   {"optim.lr": {"value": 0.0001, "origin": "recipes/demo.yaml:31"}, ...}
packages.txt    torch==2.13.0, one a line, as pip reads it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import atomic
from whet.json_text import read_object
from whet.train.callbacks import QuietCallback

if TYPE_CHECKING:
    from whet.train.loop import Training

SETTINGS = "settings.json"
PACKAGES = "packages.txt"


class Record(QuietCallback):
    """Writes both files when training begins; `origins` tells of each dotted key its (value, origin)."""

    name = "record"

    def __init__(self, run_folder: Path, origins: Mapping[str, tuple[Any, str]]) -> None:
        self._folder, self._origins = run_folder, origins

    def on_start(self, run: Training, step: int) -> None:
        if not run.env.is_main:
            return
        told = read_settings(self._folder) if step else {}
        begun = {key: {"value": value, "origin": origin} for key, (value, origin) in self._origins.items()}
        document = json.loads(json.dumps(begun, default=str))
        # a run that is continued from its own recipe.yaml has its values from where they came at first
        kept = {
            key: told[key] for key, each in document.items() if key in told and told[key].get("value") == each["value"]
        }
        atomic.write_text(self._folder / SETTINGS, json.dumps(document | kept, indent=1) + "\n")
        atomic.write_text(self._folder / PACKAGES, "".join(f"{line}\n" for line in installed()))


def read_settings(run_folder: Path) -> dict[str, dict[str, Any]]:
    """What an earlier start of the run wrote; {} where that cannot be read."""
    path = run_folder / SETTINGS
    found = read_object(path.read_bytes()) if path.is_file() and not path.is_symlink() else None
    return {key: each for key, each in (found or {}).items() if isinstance(each, dict)}


def installed() -> list[str]:
    """`name==version` of every package that Python finds, by name; no addresses and no folders."""
    found = {str(each.metadata["Name"]).lower(): each.version for each in distributions() if each.metadata["Name"]}
    return [f"{name}=={version}" for name, version in sorted(found.items())]
