"""Gather the pages in build/docs as the site has them: README.md is its front page; `make docs` builds from there.

Links between pages are turned to where the pages then lie. A link to a file that is no page (a recipe, a result)
becomes its path, because the site holds pages alone.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[1]
GATHERED = ROOT / "build" / "docs"
OTHERS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "recipes/README.md": "recipes.md",
    "notebooks/README.md": "notebooks.md",
}
"""pages outside of docs/ -> their place on the site"""
_LINK = re.compile(r"\[(?P<text>[^\]\n]*(?:\n[^\]\n]+)?)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def place_of(page: str) -> str | None:
    """Where a page of the repository lies on the site; None for what is no page."""
    if page.startswith("docs/") and page.endswith(".md"):
        return page.removeprefix("docs/")
    return OTHERS.get(page)


def on_the_site(text: str, page: str) -> str:
    """The text of `page` with links as the site needs them."""
    here = PurePosixPath(place_of(page) or page)

    def turned(link: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(page).parent / link["path"])
        place = place_of(target)
        if place is None:
            return link["text"] if link["text"].startswith("`") else f"{link['text']} (`{target}`)"
        return f"[{link['text']}]({os.path.relpath(place, here.parent)}{link['anchor'] or ''})"

    return _LINK.sub(turned, text)


def nav_pages(nav: list[dict[str, Any]]) -> list[str]:
    """The pages of a nav, in its order."""
    return [
        page
        for entry in nav
        for value in entry.values()
        for page in (nav_pages(value) if isinstance(value, list) else [value])
    ]


def site_pages() -> dict[str, str]:
    """Page of the repository -> its place on the site."""
    names = [*OTHERS, *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
    return {name: place for name in names if (place := place_of(name)) and (ROOT / name).is_file()}


def nav() -> list[str]:
    """The pages that zensical.toml lists."""
    settings = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    return nav_pages(settings["project"]["nav"])


def main() -> None:
    shutil.rmtree(GATHERED, ignore_errors=True)
    for page, place in site_pages().items():
        target = GATHERED / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(on_the_site((ROOT / page).read_text(encoding="utf-8"), page), encoding="utf-8")


if __name__ == "__main__":
    main()
