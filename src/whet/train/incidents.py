"""What went wrong in a run and was mended by the run itself, line by line in RUN/incidents.jsonl. Free of torch.

    {"step": 7, "kind": "out_of_memory", "text": "step 7: ...", "facts": {"num_parts": 2}}

Told through `Callbacks.on_incident`: rank 0 writes the line here, a sentence into metrics.jsonl and one to the console;
the report shows all of them. A resume takes back lines of metrics.jsonl that it will write again, but no incident:
what happened stays told.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whet import atomic
from whet.json_text import objects_of_lines

FILE_NAME = "incidents.jsonl"
KIND_NAMES = {
    "out_of_memory": ("time out of memory, passes were cut smaller", "times out of memory, passes were cut smaller"),
    "rollback": ("time back to a snapshot in memory", "times back to a snapshot in memory"),
}
"""kind -> what follows the number 1 and other numbers in the summary; other kinds are told by their own name"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One of them. Invariant: `facts` is plain JSON."""

    step: int
    """1-based optimizer step in which it came up; 0: before the first"""
    kind: str
    """`out_of_memory`, ...: what such incidents are counted by"""
    text: str
    """one or two sentences for people: what happened and what was done"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """numbers, texts and lists of them for programs, by names with units"""


def append_incident(run_folder: Path, incident: Incident) -> None:
    """One more line, on the disk when this returns; StorageError when the disk refuses."""
    path = run_folder / FILE_NAME
    line = json.dumps(asdict(incident) | {"facts": _finite(incident.facts)}, allow_nan=False)
    # a crash may have left a part of a line
    begin = b"" if _ends_a_line(path) else b"\n"
    atomic.append_bytes(path, begin + line.encode("ascii") + b"\n")


def read_incidents(run_folder: Path) -> list[Incident]:
    """All in the order in which they came up; a line that is torn or no incident is left out."""
    path = run_folder / FILE_NAME
    if not path.is_file():
        return []
    found = (_incident(line) for line in objects_of_lines(path.read_bytes()))
    return [incident for incident in found if incident is not None]


def sentences(incidents: Iterable[Incident]) -> list[str]:
    """For the summary: how often each kind came up."""
    counts = Counter(incident.kind for incident in incidents)
    return [f"{count:,} {_named(kind, count)} (incidents.jsonl)" for kind, count in counts.items()]


def _named(kind: str, count: int) -> str:
    plain = kind.replace("_", " ")
    one, many = KIND_NAMES.get(kind, (f"incident: {plain}", f"incidents: {plain}"))
    return one if count == 1 else many


def _ends_a_line(path: Path) -> bool:
    content = path.read_bytes() if path.is_file() else b""
    return not content or content.endswith(b"\n")


def _finite(value: Any) -> Any:
    """JSON has no word for what is not finite: its name stands for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _incident(document: dict[str, Any]) -> Incident | None:
    if not isinstance(document.get("step"), int):
        return None
    facts = document.get("facts")
    return Incident(
        step=document["step"],
        kind=str(document.get("kind", "")),
        text=str(document.get("text", "")),
        facts=facts if isinstance(facts, dict) else {},
    )
