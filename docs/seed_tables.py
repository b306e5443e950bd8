"""The tables of docs/seeds-line-by-line.md, from the lines that tests/support/seed_lines.py types."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = ROOT / "tests" / "docs" / "seed_lines"
RESULT = ROOT / "benchmarks" / "results" / "seed_lines.json"


def seed_table(name: str) -> str:
    """Line, command and outcome of one seed."""
    with (LINES / f"{name}.toml").open("rb") as file:
        lines = tomllib.load(file)["line"]
    rows = [f"| {_cell(line['seed'])} | `{_cell(line['command'])}` | {_cell(line['outcome'])} |" for line in lines]
    return "\n".join(["| the guide's line | typed with whet | outcome |", "|---|---|---|", *rows])


def last_run() -> str:
    """When all lines were typed last, and with what."""
    if not RESULT.is_file():
        return "The lines have not been typed one after the other yet."
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    lines = [line for of_seed in found["lines"].values() for line in of_seed.values()]
    good = sum(line["is_as_written"] for line in lines)
    num_lines = sum(len(tomllib.loads(path.read_text(encoding="utf-8"))["line"]) for path in LINES.glob("*.toml"))
    minutes = sum(line["seconds"] for line in lines) / 60
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "transformers", "peft"))
    return (
        f"Last typed {found['date'][:10]} with {versions}: {good} of {num_lines} lines did what the table says"
        f"{'' if good == num_lines else ' (the others were not typed to their end)'}, in "
        f"{minutes:.0f} minutes on a busy machine."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
