"""The code blocks of the pages, each with its fate: what `make docs-test` does with it.

A block without a language has no fate. `<!-- docs-test: KEY=VALUE -->` right before a block says more:
`skip=REASON` (listed and counted; the reason must be in tests/docs/allowed_skips.txt), `file=NAME` (written into the
folder that the page's commands run in), `exit=N` (the exit code that its commands end with).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
_DIRECTIVE = re.compile(r"<!-- docs-test: (?P<key>\w+)=(?P<value>.*?) -->")
_LIVE = re.compile(r"<!-- code: \S+#\S+ -->")
KEYS = ("skip", "file", "exit")
FATES = {"bash": "runs", "python": "runs", "yaml": "recipe", "text": "shown", "markdown": "shown"}
"""language -> what is done with a block that no comment speaks of"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced or indented block."""

    page: str
    """path from the root of the repository"""
    line: int
    """1-based line of its fence"""
    language: str
    text: str
    directives: dict[str, str] = field(default_factory=dict)
    is_live: bool = False
    """whether docs/refresh.py copies it from the source"""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def fate(self) -> str:
        """runs, file, recipe, source, shown, skipped; empty when nothing says what to do with it."""
        if "skip" in self.directives:
            return "skipped"
        if "file" in self.directives:
            return "file"
        return "source" if self.is_live else FATES.get(self.language, "")


def pages() -> list[str]:
    """README.md, the other pages at the top and everything in docs/."""
    tops = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "recipes/README.md", "notebooks/README.md")
    return [
        *(name for name in tops if (ROOT / name).is_file()),
        *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
    ]


@cache
def tokens_of(text: str) -> list[Token]:
    """CommonMark with tables, as the pages are read elsewhere."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks_of(page: str, root: Path = ROOT) -> list[Block]:
    """The blocks of `page` in their order."""
    found, comment = [], ""
    for token in tokens_of((root / page).read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            found.append(
                Block(
                    page=page,
                    line=token.map[0] + 1,
                    language=token.info.strip() if token.type == "fence" else "",
                    text=token.content,
                    directives={m["key"]: m["value"] for m in _DIRECTIVE.finditer(comment)},
                    is_live=bool(_LIVE.search(comment)),
                )
            )
        comment = token.content if token.type == "html_block" else ""
    return found
