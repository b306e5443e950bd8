"""Copy live code and measured results into the pages that show them; `--check` only says which are out of date.

A page asks for code with `<!-- code: PATH#NAME -->` before a fenced block; the source marks it with
`# docs: start-NAME` and `# docs: end-NAME`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("docs/follow-a-batch.md",)
_BLOCK = re.compile(r"(<!-- code: (?P<path>[^#\s]+)#(?P<name>\S+) -->\n```\w*\n).*?(?=```)", re.DOTALL)


def live_code(path: str, name: str) -> str:
    """The lines between the two markers of `name` in `path`; ValueError when they are not there once each."""
    text = (ROOT / path).read_text(encoding="utf-8")
    parts = re.findall(rf"^# docs: start-{name}\n(.*?)^# docs: end-{name}\n", text, re.DOTALL | re.MULTILINE)
    if len(parts) != 1:
        raise ValueError(f"{path} has no single block named {name}")
    return str(parts[0]).strip() + "\n"


def refreshed(page: str) -> str:
    """The text of `page` with every code block as it is in the source now."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return _BLOCK.sub(lambda m: m[1] + live_code(m["path"], m["name"]), text)


def main() -> None:
    stale = [page for page in PAGES if refreshed(page) != (ROOT / page).read_text(encoding="utf-8")]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"out of date: {', '.join(stale)}; run python docs/refresh.py")
        return
    for page in stale:
        (ROOT / page).write_text(refreshed(page), encoding="utf-8")


if __name__ == "__main__":
    main()
