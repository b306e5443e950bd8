"""The notebooks as they are kept: no outputs, short cells, code that is code. `make docs-test` runs them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_blocks import tokens_of
from doc_commands import command_line, commands_in
from doc_commands import fault_of as command_fault
from small_rows import MAKERS, REAL, generated, read_lines, write_rows

from whet.recipe import find_problems, parse_recipe

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEPS = ("Prepare the model", "Prepare the rows", "Configure", "Train", "Generate", "Evaluate", "Merge", "Serve")
NUM_LINES = 30
ALL = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code_of(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def test_there_is_a_notebook_for_each_seed() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["fiqa", "gsm8k", "lora", "sft"]


@ALL
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    code = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all(cell["metadata"] == {} for cell in read(path)["cells"])


@ALL
def test_a_notebook_goes_the_steps_of_the_tutorials_in_their_order(path: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    titles = [inline.content for opening, inline in pairwise(tokens_of(text)) if opening.type == "heading_open"]
    headings = [title for title in titles if title[0].isdigit()]
    assert [heading.partition(". ")[2] for heading in headings][: len(STEPS)] == list(STEPS)


@ALL
def test_cells_are_short_and_their_commands_and_recipe_exist(path: Path) -> None:
    group = command_line()
    for code in code_of(path):
        assert len(code.splitlines()) <= NUM_LINES
        magic, _, rest = code.partition("\n")
        if magic == "%%bash":
            assert not [fault for command in commands_in(rest) if (fault := command_fault(command, group))]
        elif magic.startswith("%%writefile"):
            assert find_problems(parse_recipe(yaml.safe_dump(yaml.safe_load(rest)))) == []
        else:
            assert "%" not in magic
            compile(code, str(path), "exec")


@pytest.mark.parametrize("dataset", MAKERS)
def test_generated_rows_are_the_same_each_time_and_none_is_in_two_parts(dataset, tmp_path, monkeypatch) -> None:
    assert generated(dataset, 5) == generated(dataset, 5)
    monkeypatch.delenv("WHET_TEST_DATA", raising=False)
    assert write_rows(dataset, tmp_path, num_train=40, num_held_out=5) == "generated"
    rows = [row for part in ("train", "validation", "test") for row in read_lines(tmp_path / f"{part}.jsonl")]
    assert len(rows) == 50 == len(set(rows))


@pytest.mark.parametrize("dataset", MAKERS)
def test_real_rows_are_taken_where_they_are(dataset, tmp_path, test_data) -> None:
    assert write_rows(dataset, tmp_path, num_train=40, num_held_out=5) == f"{REAL[dataset][0]} of WHET_TEST_DATA"
    rows = [row for part in ("train", "validation", "test") for row in read_lines(tmp_path / f"{part}.jsonl")]
    assert len(rows) == 50 == len(set(rows))
