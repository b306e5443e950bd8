"""Scores and differences as people read them: shares in per cent and points, everything else in its own unit."""

from __future__ import annotations


def is_share(unit: str) -> bool:
    """Whether scores in `unit` are shares from 0 to 1."""
    return unit.startswith("share")


def amount(value: float, unit: str) -> str:
    """`41.3 %`, `12.5 words`, `0.713 cosine`."""
    return f"{100 * value:.1f} %" if is_share(unit) else f"{value:.4g} {short_unit(unit)}".rstrip()


def change(value: float, unit: str) -> str:
    """The signed difference without its unit: `+5.1` (points of a share), `-0.0123`."""
    return f"{100 * value:+.1f}" if is_share(unit) else f"{value:+.3g}"


def short_unit(unit: str) -> str:
    """What a difference counts: `points` of a share, else the unit without its range."""
    return "points" if is_share(unit) else unit.split(",")[0]


def rows(count: int) -> str:
    """`1 row`, `128 rows`."""
    return f"{count} row" if count == 1 else f"{count:,} rows"
