"""The account of the rows for the report: tokens of each set, what became of every row, and the rows left out."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

from whet.report.metrics_log import finite
from whet.types import RowStatus

_MAX_ROWS = 200
_COUNTS = ("num_rows", "num_kept", "num_tokens", "num_taught")
STATUSES = ("kept", *reversed(get_args(RowStatus)))


class LedgerRows(NamedTuple):
    """Rows that did not go into training as they were."""

    shown: list[tuple[str, str, str, str]]
    """set, row, what became of it, reason"""
    num_all: int


def token_table(data: dict[str, Any]) -> list[list[str]]:
    """Per tokenized set: name, rows, samples, tokens, taught tokens, fingerprint. `data` is data.json."""
    table = []
    for name in ("train", "validation"):
        account = data.get(name)
        if isinstance(account, dict) and account:
            fingerprint = str(account.get("fingerprint", "-"))[:12]
            table.append([name, *(_count(account.get(key)) for key in _COUNTS), fingerprint])
    return table


def ledger_table(ledger: dict[str, Any]) -> list[list[str]]:
    """Per set: name, rows, then the count of every status; they add up to the rows. `ledger` is ledger.json."""
    table = []
    for each in _sets(ledger):
        counts = each.get("counts")
        counts = counts if isinstance(counts, dict) else {}
        cells = [_count(counts.get(status)) for status in STATUSES]
        table.append([str(each.get("name", "-")), _count(each.get("num_rows")), *cells])
    return table


def ledger_rows(ledger: dict[str, Any]) -> LedgerRows:
    """The first rows of every set that are not simply kept."""
    found, num_all = [], 0
    for each in _sets(ledger):
        rows = each.get("rows")
        rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        num_all += len(rows)
        for row in rows[:_MAX_ROWS]:
            reason = str(row.get("reason", ""))
            if row.get("num_tokens_cut"):
                reason += f"; {_count(row['num_tokens_cut'])} tokens cut from the {row.get('cut_from', '')}"
            found.append((str(each.get("name", "")), str(row.get("origin", "")), str(row.get("status", "")), reason))
    return LedgerRows(found[:_MAX_ROWS], num_all)


def _sets(ledger: dict[str, Any]) -> list[dict[str, Any]]:
    sets = ledger.get("sets")
    return [each for each in sets if isinstance(each, dict)] if isinstance(sets, list) else []


def _count(value: object) -> str:
    number = finite(value)
    return "-" if number is None else f"{number:,.0f}"
