"""The table of docs/reliability.md, made of what `make faults` wrote."""

from __future__ import annotations

from typing import Any


def fault_tables(result: dict[str, Any]) -> str:
    """faults.json: one table for each group of faults, and what did not pass."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        f"**{result['held']:,} of {result['tries']:,} tries ended as promised.** {machine['processor']}, "
        f"{machine['cores']} cores, {result['date'][:10]}, whet on torch {versions['torch']}; the last column is "
        f"transformers {versions['transformers']} with PEFT {versions['peft']} under the same fault, where the suite "
        f"can run it: `{result['command']}`"
    ]
    for group in result["groups"]:
        lines += [
            "",
            f"### {group['title']}",
            "",
            "| fault | tries | as promised | what happened | lost work | Hugging Face Trainer |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_line(row) for row in group["faults"]]
    if result["failed_tests"]:
        lines += ["", f"Tests that failed: {', '.join(f'`{name}`' for name in result['failed_tests'])}."]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    tries, held = (f"{row['tries']:,}", f"{row['held']:,}") if row["tries"] else ("-", "-")
    cells = [row["fault"], tries, held, row["note"] or "-", row["lost"] or "-", row["peer"] or "not run"]
    return f"| {' | '.join(_cell(text) for text in cells)} |"


def _cell(text: str) -> str:
    """One line, in which no bar and no angle bracket ends a cell or begins a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
