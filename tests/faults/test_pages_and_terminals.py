"""What rows, models and names hold is shown as text: no page runs it, no terminal obeys it, no table computes it."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny_reports

from whet.cli import output
from whet.errors import DataError
from whet.report import write_report

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><script>alert(1)</script>",
    "javascript:alert(1)", "' onmouseover='alert(1)", "]]><svg onload=alert(1)>", "\u202egpj.exe", "{{7*7}}{% raw %}",
    "</style><style>*{background:url(//evil.example)}</style>", "<base href=//evil.example>", "<!--",
    "&lt;b&gt;",
    "<iframe srcdoc='<script>alert(1)</script>'>", "\x1b]52;c;cm0gLXJm\x07", "\x1b[2J\x1b]0;title\x07",
    "\r\x08\x7f\x9b31m",
)  # fmt: skip
ALLOWED_ATTRIBUTES = re.compile(r"^(?!on)[a-z][a-z0-9:-]*$", re.IGNORECASE)
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""what a terminal obeys or a reader does not see"""


class Page(HTMLParser):
    """What a browser would make of a page, as far as it can act."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.policy = ""
        self.text = io.StringIO()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag in ("script", "iframe", "object", "embed", "base", "form", "img", "link", "frame", "audio", "video"):
            self.faults.append(f"<{tag}>")
        if tag == "meta" and (named.get("http-equiv") or "").lower() == "content-security-policy":
            self.policy = named.get("content") or ""
        if tag == "meta" and (named.get("http-equiv") or "").lower() == "refresh":
            self.faults.append("<meta refresh>")
        for name, value in attributes:
            if not ALLOWED_ATTRIBUTES.match(name):
                self.faults.append(f"<{tag} {name}>")
            if name in ("href", "src", "action", "xlink:href", "style") and re.match(
                r"\s*(javascript|data|vbscript|//|https?:)|.*url\(", value or "", re.IGNORECASE
            ):
                self.faults.append(f'<{tag} {name}="{value}">')

    def handle_data(self, data: str) -> None:
        self.text.write(data)


def read_page(path: Path) -> tuple[list[str], str]:
    """What a page could do that it should not, and its text."""
    page = Page()
    content = path.read_text(encoding="utf-8")
    page.feed(content)
    page.close()
    if not page.policy.startswith("default-src 'none'") or "script-src" in page.policy:
        page.faults.append(f"policy {page.policy!r}")
    if STEERING.search(content):
        page.faults.append("an invisible character")
    return page.faults, page.text.getvalue()


def with_hostile_texts(value: object, text: str) -> object:
    """Every text in a JSON document replaced; keys stay, but for those that only name things."""
    if isinstance(value, str):
        return text
    if isinstance(value, list):
        return [with_hostile_texts(item, text) for item in value]
    if isinstance(value, dict):
        return {key: with_hostile_texts(item, text) for key, item in value.items()}
    return value


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_report_of_a_run_full_of_hostile_texts_does_nothing(tmp_path, hostile, outcome):
    name = re.sub(r"[/\x00]", "-", hostile)[:60]
    run = tiny_reports.write_run(tmp_path / name)
    for path in [*run.rglob("*.json"), *run.rglob("*.jsonl")]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        changed = []
        for line in lines:
            document = json.loads(line)
            kind = document.get("kind") if isinstance(document, dict) else None
            hidden = with_hostile_texts(document, hostile)
            if kind is not None and isinstance(hidden, dict):
                hidden["kind"] = kind
            changed.append(json.dumps(hidden))
        path.write_text("\n".join(changed) + "\n", encoding="utf-8")
    (run / "recipe.yaml").write_text(f"name: {json.dumps(hostile)}\noutput: o\n", encoding="utf-8")
    faults, _ = read_page(write_report(run))
    outcome(
        fault="Scripts, event handlers, styles, direction marks and escape sequences in everything a report shows",
        group="security", tries=1, held=int(not faults), note="text, under a policy that allows nothing",
    )  # fmt: skip
    assert not faults


def test_every_page_that_whet_can_write_has_the_policy(outcome):
    """A new page cannot forget it: all templates of the package that are whole pages are looked at."""
    import whet

    pages = [
        path for path in Path(whet.__file__).parent.rglob("*")
        if path.suffix in (".j2", ".html", ".py") and "<html" in path.read_text(encoding="utf-8", errors="replace")
    ]  # fmt: skip
    held = ["default-src 'none'" in path.read_text(encoding="utf-8") for path in pages]
    outcome(fault="A page without a content security policy", group="security", tries=len(held), held=sum(held))
    assert len(pages) >= 2 and all(held), pages


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_terminal_gets_no_sequence_that_steers_it(monkeypatch, hostile, outcome):
    """What is said, complained about, answered by a model and raised as an error."""
    from whet.cli.chat_loop import note
    from whet.cli.main import leave_by_exit_code
    from whet.cli.progress import ProgressLine

    out, err = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    output.say(f"a {hostile}")
    output.put_text(f"an answer {hostile}\n")
    output.complain(hostile)
    note(hostile)
    before = err.getvalue()
    with ProgressLine() as line:
        line.tell(hostile, 1, 2)
    drawn = err.getvalue().removeprefix(before)

    def fail() -> None:
        raise DataError(f"row {hostile}", where=hostile, mend=hostile)

    with pytest.raises(SystemExit):
        leave_by_exit_code(fail)
    said = out.getvalue() + err.getvalue().replace(drawn, "")
    # the line that is drawn over has its own carriage returns
    held = not STEERING.search(said) and not STEERING.search(drawn.replace("\r", ""))
    outcome(
        fault="Escape sequences (OSC 52, clear, title), carriage returns and direction marks in data on a terminal",
        group="security", tries=1, held=int(held), note="written out as <U+001B>",
    )  # fmt: skip
    assert held, (said, drawn)


def test_what_a_model_wrote_reaches_a_file_as_it_is(monkeypatch):
    piped = io.StringIO()
    monkeypatch.setattr("sys.stdout", piped)
    output.put_text("a\u202eb\n")
    assert piped.getvalue() == "a\u202eb\n"


def test_no_table_is_written_that_a_spreadsheet_would_compute(outcome):
    """whet reads CSV and writes none; a writer that comes needs cells that begin with = + - @ in quotes."""
    import whet

    computed = re.compile(r"csv\.(writer|DictWriter)|\.to_(csv|excel)\(|import openpyxl")
    sources = Path(whet.__file__).parent.rglob("*.py")
    writers = [path.name for path in sources if computed.search(path.read_text(encoding="utf-8"))]
    outcome(fault="Cells that a spreadsheet computes (= + - @)", group="security", tries=1, held=int(not writers),
            note="whet writes no CSV")  # fmt: skip
    assert not writers
