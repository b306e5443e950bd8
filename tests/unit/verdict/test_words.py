"""Shares are read as per cent and points, everything else in its own unit."""

from whet.verdict.words import amount, change, rows, short_unit


def test_shares_are_per_cent_and_points() -> None:
    assert (amount(0.413, "share, 0 or 1"), change(0.051, "share, 0 to 1")) == ("41.3 %", "+5.1")
    assert short_unit("share, 0 to 1") == "points"


def test_other_units_are_kept() -> None:
    assert (amount(12.51, "words"), change(-0.0123, "cosine, -1 to 1")) == ("12.51 words", "-0.0123")
    assert short_unit("BLEU points, 0 to 100") == "BLEU points"
    assert amount(1.5, "") == "1.5"


def test_one_row_is_singular() -> None:
    assert [rows(1), rows(1319)] == ["1 row", "1,319 rows"]
