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
from whet.report.run_folder import read_document
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
        found = read_document(self._folder / SETTINGS) if step else {}
        told = {key: each for key, each in found.items() if isinstance(each, dict)}
        begun = {key: {"value": value, "origin": origin} for key, (value, origin) in self._origins.items()}
        document = json.loads(json.dumps(begun, default=str))
        # a run that is continued from its own recipe.yaml has its values from where they came at first
        kept = {
            key: told[key] for key, each in document.items() if key in told and told[key].get("value") == each["value"]
        }
        atomic.write_text(self._folder / SETTINGS, json.dumps(document | kept, indent=1) + "\n")
        atomic.write_text(self._folder / PACKAGES, "".join(f"{line}\n" for line in installed()))


def installed() -> list[str]:
    """`name==version` of every package that Python finds, by name; no addresses and no folders."""
    read_once = (each.metadata for each in distributions())
    found = {str(each["Name"]).lower(): each["Version"] for each in read_once if each["Name"]}
    return [f"{name}=={version}" for name, version in sorted(found.items())]
