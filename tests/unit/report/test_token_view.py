"""The page shows every token as it is, says which are taught, and nothing in a data set can act in the browser."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from inspections import inspection, sample, token

from whet.inspection import PassView, SetSummary
from whet.report.inspection_tables import bars, build_tables
from whet.report.token_view import render_inspection, write_inspection
from whet.types import Ledger, LedgerRow

HOSTILE = (
    "</script><script>alert(1)</script>\"><img src=x onerror=alert(1)>' onmouseover='alert(1)' </pre></style>"
    "<style>*{display:none}</style><a href=javascript:alert(1)>x</a><iframe src=//evil.example><base href=//e>"
    "<meta http-equiv=refresh content=0> {{7*7}} {% raw %} ${7*7} --> &lt;b&gt; \u202eevil\u2066 \x1b[31m \x00 end"
)
ALLOWED_TAGS = """
    html head meta title style body header main section article div span mark p h1 h2 h3 ul li table thead tbody tr th
    td pre
"""


class Page(HTMLParser):
    """Tags with attributes, the text, and the text of each token view."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str]] = []
        self.unbalanced: list[str] = []
        self.text = ""
        self.samples: list[str] = []
        self.taught: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "meta":
            return
        self.open.append((tag, dict(attrs).get("class") or ""))
        if tag == "pre":
            self.samples.append("")
        if tag == "mark" and self.open[-2][0] == "pre":
            self.taught.append("")

    def handle_endtag(self, tag) -> None:
        if not self.open or self.open.pop()[0] != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data) -> None:
        self.text += data
        if any(tag == "pre" for tag, _ in self.open) and "role-name" not in self.open[-1][1]:
            self.samples[-1] += data
            if any(tag == "mark" for tag, _ in self.open):
                self.taught[-1] += data


def test_hostile_strings_become_text_and_nothing_else():
    html = render_inspection(inspection(HOSTILE))
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= set(ALLOWED_TAGS.split())
    assert not page.unbalanced
    assert not page.open
    attributes = {name for _, found in page.tags for name in found}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "href", "srcset", "action")}
    assert page.text.count("<script>alert(1)</script>") >= 12
    assert "{{7*7}}" in page.text
    assert "49 {% raw %}" not in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)
    assert page.samples[0] == HOSTILE.replace("\u202e", "<U+202E>").replace("\u2066", "<U+2066>").replace(
        "\x1b", "<U+001B>"
    ).replace("\x00", "<U+0000>")


def test_the_page_needs_nothing_else():
    html = render_inspection(inspection())
    assert "default-src 'none'; style-src 'unsafe-inline'" in html
    assert not re.search(r"https?:|//|url\(|@import|<script|<link", html)
    assert html.isascii()


def test_the_same_inspection_gives_the_same_bytes():
    assert render_inspection(inspection("a")) == render_inspection(inspection("a"))


def test_a_sample_reads_exactly_as_it_is_decoded():
    tokens = [
        token(0, "<|im_start|>", is_special=True, role="template"),
        token(1, "user", role="template"),
        token(2, "\n", role="template"),
        token(3, "  two  spaces\n\n"),
        token(4, "\n"),
        token(5, "<|im_end|>", is_special=True, role="template"),
        token(6, " 4", role="assistant", is_taught=True),
        token(7, "\u20ac", role="assistant", is_taught=True),
        token(8, "", role="assistant", is_taught=True),
        token(9, "<|im_end|>", is_special=True, is_taught=True, role="template"),
        token(10, "\n", role="template"),
    ]
    page = Page(render_inspection(inspection(rows=(sample(*tokens),), passes=())))
    assert page.samples == ["".join(each.text for each in tokens)]
    assert page.taught == [" 4\u20ac", "<|im_end|>"]
    titles = [found["title"] for tag, found in page.tags if "title" in found]
    assert len(titles) == len(tokens)
    assert titles[7] == "position 7, id 7, assistant, taught"
    assert titles[8] == "position 8, id 7, assistant, taught, goes on with the character before"
    looks = [found["class"] for tag, found in page.tags if "title" in found]
    assert looks == ["t special", "t", "t break", "t", "t break", "t special", "t", "t", "t joined", "t special",
                     "t break"]  # fmt: skip
    names = [found["class"] for tag, found in page.tags if (found.get("class") or "").startswith("role-name")]
    # the legend, then where the messages begin
    assert names == [f"role-name {role}" for role in ("user", "assistant", "template", "user", "assistant")]


def test_documents_of_a_pass_stand_in_their_order_with_what_is_left_out():
    documents = tuple(sample(token(text=text), number=i, name=text) for i, text in enumerate(("one", "two"), start=1))
    shown = (PassView(number=1, documents=documents, num_documents=5, num_tokens=1234),)
    page = Page(render_inspection(inspection(rows=(), passes=shown, num_passes=3)))
    assert page.samples == ["one", "two"]
    assert "5 documents, 1,234 tokens, the first 2 shown" in page.text
    assert "The first 1 of 3 passes are shown" in page.text
    assert "No sample is shown" in page.text


def test_tables_hold_the_numbers():
    tables = {table.title: table for table in build_tables(inspection("x"))}
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)
    cells = {title: table.rows for title, table in tables.items()}
    assert cells["Samples and tokens of one epoch"] == (("train", "4", "200", "50", "25.0 %", "10", "40", "99"),)
    assert cells["Rows of train: 6 in, 4 samples out"] == (
        ("kept", "4", ""), ("too long", "1", "x: x"), ("duplicate (dropped)", "1", "x: x")
    )  # fmt: skip
    assert cells["Answers in words"] == (("train", "4", "150", "199.2", "25.0 %", "50.0 %", "25.0 %"),)
    assert cells["Control tokens of train"] == (("x", "2", "8", "4", "2.00", "end of turn"),)
    assert cells["Packing"] == (("train", "37.5 %", "128", "2", "78.1 %"),)
    assert cells["Overlap with the training rows"] == (("x", "1,319", "0", "-", "80", "3", "5", "1"),)
    assert cells["First rows that overlap"] == (("x", "8-gram", "x", "x", "x"),)
    assert "share of padded batches of 8" in tables["Packing"].note


def test_a_set_of_prompts_says_why_nothing_of_it_is_taught():
    whole = inspection()
    (train,) = whole.sets
    held = replace(train, name="held", num_taught=0)
    tables = {table.title: table for table in build_tables(replace(whole, sets=(train, held)))}
    samples = tables["Samples and tokens of one epoch"]
    assert [row[3:5] for row in samples.rows] == [("50", "25.0 %"), ("-", "-")]
    assert samples.note.startswith("-: prompts")
    assert not build_tables(whole)[0].note


def test_a_long_list_of_rows_is_cut_and_counted():
    rows = tuple(LedgerRow(origin=f"r:{i}", status="bad", reason="torn") for i in range(1203))
    base = inspection().sets[0]
    ledger = Ledger(name="train", num_rows=1203, num_kept=0, rows=rows)
    changed = SetSummary(**({name: getattr(base, name) for name in base.__dataclass_fields__} | {"ledger": ledger}))
    (table,) = (table for table in build_tables(inspection(sets=(changed,))) if table.title.startswith("Rows of"))
    assert table.rows[1] == ("bad", "1,203", "r:0: torn; r:1: torn; r:2: torn; and 1,200 more")


def test_bars_are_scaled_to_the_highest():
    assert [(bar.label, bar.count, bar.share_of_highest) for bar in bars(inspection().sets[0])] == [
        ("0 to 49", 1, pytest.approx(1 / 3)), ("50 to 99", 3, 1.0)
    ]  # fmt: skip


def test_an_inspection_with_nothing_in_it_is_a_page(tmp_path):
    empty = inspection(sets=(), overlaps={}, rows=(), passes=(), notes=(), num_passes=0)
    write_inspection(empty, tmp_path / "new" / "inspect.html")
    page = Page((tmp_path / "new" / "inspect.html").read_text(encoding="utf-8"))
    assert not page.unbalanced
    assert build_tables(empty) == ()
