"""`make docs-test` itself: a page that does not do what it says is found, with the block where it stopped."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_blocks import Block
from doc_world import small

from whet.recipe import find_problems, parse_recipe

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("run.py")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """tests/docs/run.py as a module, with an empty folder in place of the world of a page."""
    spec = importlib.util.spec_from_file_location("docs_run", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setitem(sys.modules, "docs_run", module)
    spec.loader.exec_module(module)

    def empty_world(folder: Path, tiny_model: Path, *, is_real_model: bool = False) -> dict[str, str]:
        folder.mkdir()
        return {"PATH": os.environ["PATH"]}

    monkeypatch.setattr(module, "make_world", empty_world)
    return module


def block(text: str, line: int, language: str = "bash", **directives: str) -> Block:
    return Block(page="docs/page.md", line=line, language=language, text=text, directives=directives)


def outcome(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *blocks: Block) -> Any:
    monkeypatch.setattr(run, "blocks_of", lambda _: list(blocks))
    return run.run_page("docs/page.md", folder / "tiny", folder / "page")


def test_blocks_run_in_one_folder_in_their_order(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = (
        block("a,b\n", 1, "csv", file="rows.csv"),
        block("export WORD=b\ngrep -q $WORD rows.csv\n", 3),
        block("import os\nassert os.environ['WORD'] == 'b'\n", 5, "python"),
        block("exit 3\n", 7, exit="3"),
        block("nothing that is a command\n", 9, "text"),
    )
    assert outcome(run, tmp_path, monkeypatch, *blocks).fault == ""


@pytest.mark.parametrize(
    "wrong",
    [
        block("false\n", 5),
        block("true && false | cat\n", 5),
        block("echo $NEVER_SET\n", 5),
        block("raise SystemExit(2)\n", 5, "python"),
        block("exit 4\n", 5, exit="3"),
        block("true\n", 5, exit="3"),
        block("exit 0\n", 5),
    ],
    ids=lambda wrong: wrong.text.strip(),
)
def test_a_block_that_fails_is_found_and_named(
    wrong: Block, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = outcome(run, tmp_path, monkeypatch, block("true\n", 1), wrong, block("true\n", 9)).fault
    assert fault.startswith("docs/page.md:5: exit ")


def test_a_recipe_is_made_small_without_becoming_another_kind_of_run(tmp_path: Path) -> None:
    recipe = {
        "name": "r",
        "output": "runs/r",
        "model": {"id": "meta-llama/Llama-3.1-8B", "dtype": "bfloat16"},
        "adapter": {"method": "none"},
        "data": {"train": [{"source": "openai/gsm8k", "split": "train"}], "validation": [{"source": "openai/gsm8k"}]},
        "train": {"epochs": 3, "final": "best"},
        "evaluate": [{"name": "g", "source": {"source": "openai/gsm8k", "split": "test"}, "every": 50}],
    }
    made = small(recipe, tmp_path, "tiny")
    assert made["adapter"] == {"method": "none"} and made["train"]["final"] == "best"
    assert made["train"]["max_steps"] == 2 and "epochs" not in made["train"] and made["evaluate"][0]["every"] == 1
    files = [made["data"]["train"][0], made["data"]["validation"][0], made["evaluate"][0]["source"]]
    rows = [Path(each["source"]).read_text(encoding="utf-8").splitlines() for each in files]
    assert [len(each) for each in rows] == [24, 4, 4]
    assert len({row for part in rows for row in part}) == 32, "a held-out row is trained on"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_stays_a_recipe_when_it_is_made_small(path: Path, tmp_path: Path) -> None:
    made = small(yaml.safe_load(path.read_text(encoding="utf-8")), tmp_path, "smollm2-135m-instruct")
    assert find_problems(parse_recipe(yaml.safe_dump(made))) == []
