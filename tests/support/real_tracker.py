"""`python real_tracker.py NAME FOLDER`: the real library through a whole run, one that goes on and one that is changed.

Prints, as one JSON object, the curves of train/loss and eval/answer_accuracy by name of the run, and what else it kept.
A process of its own, because these libraries read their folders once, when they are imported.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracked_steps import drive

Curves = dict[str, dict[str, list[tuple[int, float]]]]


def records_of(content: bytes) -> Iterator[bytes]:
    """Messages of a .wandb file, which is a LevelDB log after seven bytes: blocks of 32 KiB with whole and cut ones."""
    at, message = 7, b""
    while at + 7 <= len(content):
        left = 32_768 - at % 32_768
        _, size, kind = struct.unpack("<IHB", content[at : at + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:
            at += left
            continue
        message += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield message
            message = b""


def read_wandb(logs: Path) -> tuple[Curves, dict[str, Any]]:
    import wandb
    from wandb.proto import wandb_internal_pb2 as messages

    wandb.teardown()  # its process writes everything out, as it does when ours ends
    curves: Curves = {}
    names: dict[str, str] = {}
    facts: dict[str, Any] = {}
    for path in sorted(logs.glob("wandb/*/*.wandb"), key=lambda each: each.stat().st_mtime_ns):
        name = ""
        for content in records_of(path.read_bytes()):
            record = messages.Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "run":
                name = names.setdefault(record.run.run_id, record.run.display_name)
                facts = facts or {"project": record.run.project, "tags": list(record.run.tags)}
            if record.WhichOneof("record_type") == "history":
                row = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                note(curves, name, row["train/global_step"], row)
    return curves, facts


def read_mlflow(logs: Path) -> tuple[Curves, dict[str, Any]]:
    store = sqlite3.connect(logs / "mlflow.db")
    curves: Curves = {}
    asked = "select name, key, step, value from metrics join runs using (run_uuid) order by step"
    for name, key, step, value in store.execute(asked):
        note(curves, name, step, {key: value})
    tags = [f"{key}:{value}" for key, value in store.execute("select distinct key, value from tags order by key")]
    [[project]] = store.execute("select name from experiments where name != 'Default'")
    return curves, {"project": project, "tags": tags}


def read_trackio(logs: Path) -> tuple[Curves, dict[str, Any]]:
    import trackio

    curves: Curves = {}
    for name in trackio.SQLiteStorage.get_runs("p"):
        for row in trackio.SQLiteStorage.get_logs("p", name):
            note(curves, name, row["step"], row)
    return curves, {"project": "p", "tags": trackio.SQLiteStorage.get_run_config("p", "demo")["tags"]}


def note(curves: Curves, run: str, step: int, row: dict[str, float]) -> None:
    for number in ("train/loss", "eval/answer_accuracy"):
        if number in row:
            curves.setdefault(number, {}).setdefault(run, []).append((step, row[number]))


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    library, folder = sys.argv[1], Path(sys.argv[2])
    drive(library, folder)
    warnings.simplefilter("ignore")
    found, others = globals()[f"read_{library}"](folder / "logs")
    sys.stdout.write(json.dumps({"curves": found} | others))
