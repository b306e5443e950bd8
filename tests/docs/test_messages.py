"""The messages that the troubleshooting pages quote are messages that whet prints."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUM_LETTERS = 8
"""of its own that a text in the source needs to be told from others"""
TABLES = re.compile(r"<!-- messages -->\n(.*?)<!-- end messages -->", re.DOTALL)
QUOTED = [
    (page.name, message)
    for page in sorted((ROOT / "docs").glob("*.md"))
    for table in TABLES.findall(page.read_text(encoding="utf-8"))
    for message in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
]


def texts_of(node: ast.AST) -> str | None:
    """A text or f-string as a pattern; None for other nodes and for texts that nearly anything fits."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        literal, pattern = node.value, re.escape(node.value)
    elif isinstance(node, ast.JoinedStr):
        parts = [each.value if isinstance(each, ast.Constant) else None for each in node.values]
        literal = "".join(part for part in parts if part is not None)
        pattern = "".join(".+" if part is None else re.escape(part) for part in parts)
    else:
        return None
    return pattern if len(re.sub(r"\W", "", literal)) >= NUM_LETTERS else None


def patterns(folder: Path) -> list[re.Pattern[str]]:
    """Every text in the source of `folder`."""
    found = {
        text
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (text := texts_of(node)) is not None
    }
    return [re.compile(text, re.DOTALL) for text in found]


@pytest.fixture(scope="module")
def printed() -> list[re.Pattern[str]]:
    return patterns(ROOT / "src" / "whet")


def test_pages_quote_messages() -> None:
    assert len(QUOTED) > 20


@pytest.mark.parametrize(("page", "message"), QUOTED)
def test_a_quoted_message_is_one_that_whet_prints(page: str, message: str, printed: list[re.Pattern[str]]) -> None:
    """As a whole, with values of the reader's and with without its place; or a part, where N and `...` are values."""
    part = re.compile(re.sub(r"(\\\.){3}|\bN\b", ".+", re.escape(message)))
    # some begin with a place, some go on with a list or a reason
    what = message.partition(": ")[2]
    forms = (message, f"{message}:\n", f"{message}:\n- ...", what, f"{what}: ...")
    assert any(
        part.search(pattern.pattern.replace("\\", "")) or any(map(pattern.fullmatch, forms)) for pattern in printed
    ), message


def test_a_message_that_nobody_prints_is_seen(printed: list[re.Pattern[str]]) -> None:
    assert not any(pattern.fullmatch("no token of that row is learnt") for pattern in printed)
