"""What each address of `whet ui` gives: the page's own files, and run folders as JSON for it.

    ""  app.js ...                 the page
    api/runs                       the runs there are
    api/points/ID?at=PLACE         steps and evaluations behind a place in metrics.jsonl
    api/run/ID                     verdict, facts, ledger, incidents, settings
    api/samples/ID                 answers: of training step by step, and of base and tuned
    api/diff?runs=ID,ID            what differs
    report/ID                      the whole report as `whet report` writes it

Texts are made visible here (no invisible or direction-changing characters); the page shows them as text only.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.report import html
from whet.report.run_folder import read_run_folder
from whet.report.run_list import RunLine, describe_run, find_runs, is_finished
from whet.report.ui import documents
from whet.report.visible import visible

_STATIC = Path(__file__).parent / "static"
_HTML = "text/html; charset=utf-8"
_SCRIPT = "text/javascript; charset=utf-8"
_STYLE = "text/css; charset=utf-8"
_FILES = {
    "": ("index.html", _HTML),
    "app.js": ("app.js", _SCRIPT),
    "charts.js": ("charts.js", _SCRIPT),
    "compare.js": ("compare.js", _SCRIPT),
    "dom.js": ("dom.js", _SCRIPT),
    "run.js": ("run.js", _SCRIPT),
    "app.css": ("app.css", _STYLE),
    "uplot/uPlot.iife.min.js": ("uplot/uPlot.iife.min.js", _SCRIPT),
    "uplot/uPlot.min.css": ("uplot/uPlot.min.css", _STYLE),
    "uplot/LICENSE": ("uplot/LICENSE", "text/plain; charset=utf-8"),
}
"""address -> (file, type)"""
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_FRESH_SECONDS = 2.0
MAX_COMPARED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of the server."""

    status: int = 200
    kind: str
    body: bytes
    policy: str = ""
    """Content-Security-Policy; empty: the page's"""


class Pages:
    """All of them, over one folder. May be asked by several threads."""

    def __init__(self, root: Path, *, is_held: Callable[[Path], bool]) -> None:
        self._root, self._is_held = root, is_held
        self._lock = threading.Lock()
        self._found: dict[str, Path] = {}
        self._looked = float("-inf")
        self._lines: dict[Path, tuple[float, RunLine]] = {}

    def answer(self, name: str, query: Mapping[str, str]) -> Answer | None:
        """Of an address without its secret word; None where there is no such page. StorageError: a run is gone."""
        if name in _FILES:
            file, kind = _FILES[name]
            return Answer(kind=kind, body=(_STATIC / file).read_bytes())
        if name == "api/runs":
            return _json({"root": str(self._root), "runs": [self._line(id) for id in self._runs()]})
        if name == "api/diff":
            chosen = [run for id in query.get("runs", "").split(",") if (run := self._runs().get(id)) is not None]
            return _json(documents.differences(chosen[:MAX_COMPARED], self._name))
        kind, _, id = name.rpartition("/")
        run = self._runs().get(id)
        if run is None:
            return None
        if kind == "report":
            page = html.render(read_run_folder(run)).encode("utf-8", errors="replace")
            return Answer(kind=_HTML, body=page, policy=_REPORT_POLICY)
        if kind == "api/points":
            return _json(documents.points(run, query.get("at", "")) | {"line": self._line(id)})
        if kind == "api/run":
            return _json(documents.overview(run) | {"line": self._line(id)})
        if kind == "api/samples":
            return _json(documents.samples(run))
        return None

    def _runs(self) -> dict[str, Path]:
        """ID -> folder, looked for anew every other second. Links are not followed below the root."""
        with self._lock:
            if time.monotonic() - self._looked > _FRESH_SECONDS:
                runs = find_runs(self._root)
                self._found = {hashlib.sha256(self._name(run).encode("utf-8", "surrogatepass")).hexdigest()[:16]: run
                               for run in runs}  # fmt: skip
                self._looked = time.monotonic()
            return self._found

    def _name(self, run: Path) -> str:
        return run.resolve().name if run == self._root else run.relative_to(self._root).as_posix()

    def _line(self, id: str) -> dict[str, Any]:
        """A run as the list shows it; described anew every other second."""
        run = self._runs()[id]
        with self._lock:
            described, line = self._lines.get(run, (float("-inf"), None))
        if line is None or time.monotonic() - described > _FRESH_SECONDS:
            line = describe_run(run, is_held=not is_finished(run) and self._is_held(run))
            with self._lock:
                self._lines[run] = (time.monotonic(), line)
        return {"id": id, "name": self._name(run), **documents.of_line(line)}


def _json(document: Any) -> Answer:
    text = json.dumps(_visible(document), ensure_ascii=True, allow_nan=False, default=str)
    return Answer(kind="application/json", body=text.encode("ascii"))


def _visible(value: Any) -> Any:
    """Every text of a document made visible, names of values among them."""
    if isinstance(value, Mapping):
        return {str(visible(str(key))): _visible(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return visible(value)
