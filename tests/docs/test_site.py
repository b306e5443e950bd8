"""The pages as a site: each is in the nav, links lead to where the pages then lie. `make docs` builds it strictly."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import site_pages  # noqa: E402


def test_every_page_is_in_the_nav_once_and_every_entry_is_a_page() -> None:
    listed, there = site_pages.nav(), set(site_pages.site_pages().values())
    assert len(listed) == len(set(listed))
    assert set(listed) <= there, "an entry of zensical.toml without a page"
    assert {place for place in there - set(listed) if not place.startswith("decisions/")} == set()


def test_links_are_turned_to_where_the_pages_lie() -> None:
    text = "[a](docs/speed.md#x) [b](CONTRIBUTING.md) [c](https://a.b/c.md) [d](#here) [e](recipes/demo.yaml)"
    turned = "[a](speed.md#x) [b](contributing.md) [c](https://a.b/c.md) [d](#here) e (`recipes/demo.yaml`)"
    assert site_pages.on_the_site(text, "README.md") == turned
    assert site_pages.on_the_site("[a](../../README.md)", "docs/decisions/0001-x.md") == "[a](../index.md)"
    assert site_pages.on_the_site("[a](../docs/reference/recipe.md)", "recipes/README.md") == "[a](reference/recipe.md)"
    assert site_pages.on_the_site("[two\nlines](docs/speed.md) [x]\n\n[y](docs/log.md)", "README.md") == (
        "[two\nlines](speed.md) [x]\n\n[y](log.md)"
    )
