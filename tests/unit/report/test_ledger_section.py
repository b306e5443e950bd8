from whet.report.ledger_section import ledger_rows, ledger_table, token_table

COUNTS = {"kept": 90, "truncated": 4, "duplicate": 3, "shared": 5, "too long": 2, "bad": 1, "left out": 0}
ROW = {"origin": "rows.jsonl:7", "status": "truncated", "reason": "99 tokens", "num_tokens_cut": 1200,
       "cut_from": "beginning of message 1 (user)"}  # fmt: skip


def test_the_ledger_shows_every_status_of_every_set():
    ledger = {"sets": [{"name": "train", "num_rows": 1100, "counts": COUNTS, "rows": []}]}
    assert ledger_table(ledger) == [["train", "1,100", "90", "4", "3", "5", "2", "1", "0"]]


def test_a_cut_row_says_how_much_and_where():
    shown, num_all = ledger_rows({"sets": [{"name": "train", "rows": [ROW] * 500}, {"name": "gsm8k", "rows": [ROW]}]})
    assert num_all == 501 and len(shown) == 200
    assert shown[0] == (
        "train", "rows.jsonl:7", "truncated", "99 tokens; 1,200 tokens cut from the beginning of message 1 (user)"
    )  # fmt: skip


def test_what_is_no_ledger_shows_nothing():
    for odd in ({}, {"sets": 3}, {"sets": [3, {"rows": 4, "counts": 5}]}):
        assert ledger_rows(odd).num_all == 0
        assert all(set(row[1:]) == {"-"} for row in ledger_table(odd))
    assert token_table({"train": 3}) == []


def test_tokens_are_told_per_set():
    data = {
        "validation": {"num_rows": 12, "num_kept": 11, "num_tokens": 1234, "num_taught": 99, "fingerprint": "ab" * 32}
    }
    assert token_table(data) == [["validation", "12", "11", "1,234", "99", "abababababab"]]
