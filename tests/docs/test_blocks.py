"""What can be said of the pages without running them: every block has a fate, and names what exists.

`make docs-test` runs the blocks themselves (tests/docs/run.py).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from doc_blocks import KEYS, Block, blocks_of, pages, tokens_of
from doc_commands import command_line, commands_in, fault_of
from doc_links import anchors_of, links_of
from doc_links import fault_of as link_fault

from whet.recipe import find_problems, parse_recipe

ROOT = Path(__file__).parents[2]
PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
GROUP = command_line()
WHOLE = """
name: page
output: runs/page
data:
  train: [{source: rows.jsonl}]
"""


def test_every_block_has_a_fate_and_its_comment_is_understood() -> None:
    without = [block.where for block in BLOCKS if not block.fate]
    assert not without, f"give these blocks a language (bash, python, yaml, text): {without}"
    assert not [block.where for block in BLOCKS if set(block.directives) - set(KEYS)]


def test_no_block_is_skipped_for_a_reason_that_is_not_listed() -> None:
    lines = (ROOT / "tests" / "docs" / "allowed_skips.txt").read_text(encoding="utf-8").splitlines()
    allowed = {line for line in lines if line and not line.startswith("#")}
    given = {block.directives["skip"] for block in BLOCKS if block.fate == "skipped"}
    assert given <= allowed
    assert allowed <= given, "a reason that nothing needs any more"


def test_a_comment_that_belongs_to_no_block_is_a_fault() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        comments = [t for t in tokens_of(text) if t.type == "html_block" and "docs-test:" in t.content]
        assert len(comments) == sum(bool(block.directives) for block in blocks_of(page)), page


def code_spans(page: str) -> list[str]:
    tokens = tokens_of((ROOT / page).read_text(encoding="utf-8"))
    return [child.content for token in tokens for child in token.children or () if child.type == "code_inline"]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_has_verbs_and_options_that_exist(page: str) -> None:
    texts = [block.text for block in blocks_of(page) if block.language in ("bash", "text")]
    spans = [span for span in code_spans(page) if re.match(r"whet [a-z]", span)]
    faults = {
        command: fault
        for text in (*texts, *spans)
        for command in commands_in(text)
        if (fault := fault_of(command, GROUP))
    }
    assert not faults


def test_a_verb_or_an_option_that_does_not_exist_is_seen() -> None:
    assert fault_of("trian recipe.yaml", GROUP) == "no verb 'trian'"
    assert fault_of("compare RUN --gates", GROUP) == "`whet compare` has no option --gates"
    assert fault_of("launch local R --nproc 2", GROUP) == ""
    assert fault_of("runs [list|show|vanish]", GROUP) == "no verb 'vanish'"
    found = commands_in("torchrun -m whet train R \\\n   a=b  # a comment\nprintf x | whet chat RUN > answers")
    assert found == ["train R a=b", "chat RUN"]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    path = ROOT / page
    faults = {link: fault for link in links_of(path.read_text("utf-8")) if (fault := link_fault(link, path))}
    assert not faults


def test_a_link_into_nothing_is_seen() -> None:
    page = ROOT / "README.md"
    assert link_fault("docs/nowhere.md", page) == "no such file"
    assert link_fault("docs/launch.md#nowhere", page) == "no such heading"
    assert link_fault("docs/launch.md#accelerates-settings", page) == ""
    assert link_fault("https://nowhere", page) == "not an address"
    assert anchors_of("# `a` b\n\n# A b\n") == {"a-b", "a-b-1"}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.fate == "recipe"], ids=lambda block: block.where)
def test_settings_on_a_page_are_settings_of_a_recipe(block: Block) -> None:
    """A whole recipe, or a part that is put into one."""
    part = yaml.safe_load(block.text)
    whole = part if {"name", "output"} <= set(part) else merged(yaml.safe_load(WHOLE), part)
    assert find_problems(parse_recipe(yaml.safe_dump(whole))) == []


def merged(whole: dict[str, object], part: dict[str, object]) -> dict[str, object]:
    """`part` on top of `whole`, section by section."""
    out = dict(whole)
    for key, value in part.items():
        mine = out.get(key)
        out[key] = {**mine, **value} if isinstance(mine, dict) and isinstance(value, dict) else value
    return out


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.where)
def test_python_on_a_page_is_python(block: Block) -> None:
    compile(block.text, block.where, "exec")


def test_extras_and_targets_on_the_pages_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for names in re.findall(r"whet\[([a-z,]+)\]|-e '?\.\[([a-z,]+)\]", text):
            assert set("".join(names).split(",")) <= extras, page
        shell = [block.text for block in blocks_of(page) if block.language == "bash"]
        typed = [t for t in (*shell, *code_spans(page)) if re.match(r"make [a-z]", t)]
        assert set(re.findall(r"^make ([a-z-]+)", "\n".join(typed), re.MULTILINE)) <= targets, page
