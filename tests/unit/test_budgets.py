"""Size budgets of src, the reading path, and the pages that send people along it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWLIST = ROOT / "tests" / "budget_allowlist.txt"
PAGE = ROOT / "docs" / "follow-a-batch.md"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_READING_PATH_LINES = 1200
READING_PATH = (
    "recipes/demo.yaml",
    "src/whet/recipe/schema.py",
    "src/whet/train/run.py",
    "src/whet/data/pipeline.py",
    "src/whet/train/loop.py",
)


def definitions(tree: ast.AST, prefix: str = "") -> list[tuple[str, ast.AST]]:
    """(dotted name, node) of every class, function and assigned name, the ones inside classes and functions too."""
    found: list[tuple[str, ast.AST]] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((prefix + node.name, node))
            found += definitions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [(prefix + target.id, node) for target in targets if isinstance(target, ast.Name)]
        else:
            found += definitions(node, prefix)
    return found


def over_budget(name: str, source: str) -> list[str]:
    """`name` when the file is too long, `name:function` for every function that is."""
    found = [name] if len(source.splitlines()) > MAX_FILE_LINES else []
    for function, node in definitions(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
            found.append(f"{name}:{function}")
    return found


def load_allowlist() -> dict[str, str]:
    lines = [line for line in ALLOWLIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {name.strip(): reason.strip() for name, _, reason in (line.partition("|") for line in lines)}


def num_lines(path: str) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def test_files_and_functions_keep_their_budget_or_give_a_reason():
    allowed = load_allowlist()
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        found += over_budget(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert not set(found) - set(allowed), f"over {MAX_FILE_LINES} or {MAX_FUNCTION_LINES} lines; split it"
    assert not set(allowed) - set(found), "in the allow-list but within the budget: take the line out"
    assert all(allowed.values()), "every line of the allow-list needs a reason"


def test_a_file_one_line_too_long_and_a_function_one_line_too_long_are_seen():
    body = "    x = 1\n"
    assert over_budget("a.py", "x = 1\n" * 400) == []
    assert over_budget("a.py", "x = 1\n" * 401) == ["a.py"]
    assert over_budget("a.py", "def f():\n" + body * 59) == []
    assert over_budget("a.py", "def f():\n" + body * 60) == ["a.py:f"]
    method = "class C:\n    async def f(self):\n" + ("    " + body) * 60
    assert over_budget("a.py", method) == ["a.py:C.f"]


@pytest.mark.parametrize("path", READING_PATH)
def test_the_reading_path_exists(path):
    assert (ROOT / path).is_file()


def test_the_reading_path_is_short():
    counts = {path: num_lines(path) for path in READING_PATH}
    assert sum(counts.values()) <= MAX_READING_PATH_LINES, counts


def named_in(text: str) -> set[tuple[str, str]]:
    """(file or module, symbol or "") of every `path.py`, `recipe.yaml` and `module:symbol` in backticks."""
    found = set()
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        match = re.fullmatch(r"([\w./-]+?\.(?:py|yaml|md|toml|txt))(?::([A-Za-z_][\w.]*))?(?:\(\))?", span)
        match = match or re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)(?:\(\))?", span)
        if match:
            found.add((match[1], match[2] or ""))
    return found


def file_of(name: str) -> Path | None:
    """The file that `train/loop.py`, `src/whet/train/loop.py`, `train.loop` or `whet.train.loop` means."""
    if not name.endswith((".py", ".yaml", ".md", ".toml", ".txt")):
        base = name.removeprefix("whet.").replace(".", "/")
        candidates = [f"src/whet/{base}.py", f"src/whet/{base}/__init__.py"]
    else:
        candidates = [name, f"src/whet/{name}"]
    return next((ROOT / path for path in candidates if (ROOT / path).is_file()), None)


def unreal(text: str) -> list[str]:
    """What `text` names that does not exist."""
    found = []
    for name, symbol in sorted(named_in(text)):
        path = file_of(name)
        if path is None:
            found.append(f"{name}: no such file")
        elif symbol and symbol not in dict(definitions(ast.parse(path.read_text(encoding="utf-8")))):
            found.append(f"{name}:{symbol}: no such name in {path.relative_to(ROOT)}")
    return found


@pytest.mark.parametrize("page", ["docs/follow-a-batch.md", "CONTRIBUTING.md"])
def test_a_page_names_only_what_exists(page):
    assert unreal((ROOT / page).read_text(encoding="utf-8")) == []


def test_follow_a_batch_visits_every_file_of_the_reading_path():
    visited = {file_of(name) for name, _ in named_in(PAGE.read_text(encoding="utf-8"))}
    assert {ROOT / path for path in READING_PATH} <= visited


def test_a_name_that_does_not_exist_is_seen():
    real = "See `types:PackedBatch.labels_T`, `whet.types:Message`, `errors.py:WhetError` and `src/whet/types.py`."
    assert len(named_in(real)) == 4
    assert unreal(real) == []
    assert len(unreal("`types:NoSuchClass` `types:Message.no_such_field` `nowhere.py` `no.module:name`")) == 4
    assert unreal("plain `words`, `whet train`, and\n```\n`nowhere.py`\n```\n") == []
