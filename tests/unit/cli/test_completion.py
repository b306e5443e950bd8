"""TAB offers recipes where a recipe is wanted, runs where a run is: in bash, zsh and fish, through typer's protocol."""

import os
import subprocess
import sys

import pytest

from whet.cli.completion import recipe_or_run_paths, recipe_paths, run_paths

WHET = "import sys; sys.argv = ['whet']; from whet.cli.main import main; main()"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two recipes, a run, and what must not be offered."""
    for name in ("faq.yaml", "recipes/demo.yml", "notes.txt", ".hidden/no.yaml", "venv/no.yaml", "a/b/c/deep.yaml",
                 "runs/first/recipe.yaml", "runs/first/run_plan.json", "runs/empty/recipe.yaml"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_recipes_are_whole_paths_that_begin_as_typed(project):
    below = ["runs/empty/recipe.yaml", "runs/first/recipe.yaml"]
    assert recipe_paths("") == ["faq.yaml", "recipes/demo.yml", *below]
    assert recipe_paths("rec") == recipe_paths("recipes/") == ["recipes/demo.yml"]
    assert recipe_paths("./f") == ["./faq.yaml"]
    assert recipe_paths(f"{project}/fa") == [f"{project}/faq.yaml"]
    assert recipe_paths("a/b/") == ["a/b/c/deep.yaml"]
    assert recipe_paths("nowhere/") == []


def test_runs_are_folders_in_which_a_run_has_begun(project):
    assert run_paths("") == run_paths("runs/f") == ["runs/first"]
    assert recipe_or_run_paths("runs/f") == ["runs/first", "runs/first/recipe.yaml"]


@pytest.mark.parametrize(
    ("shell", "typed", "offered"),
    [
        ("bash", "whet train rec", "recipes/demo.yml"),
        ("bash", "whet report ", "runs/first"),
        ("bash", "whet chat ru", "runs/first"),
        ("bash", "whet doctor --math fa", "faq.yaml"),
        ("zsh", "whet runs show ru", "_arguments '*: :((\"runs/first\"))'"),
        ("fish", "whet explain fa", "faq.yaml"),
    ],
)
def test_each_shell_is_answered(project, shell, typed, offered):
    words = typed.split() + [""] * typed.endswith(" ")
    asked = {
        "_WHET_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1], "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", WHET], env=os.environ | asked, capture_output=True, text=True)
    assert ended.stdout.strip() == offered, ended.stderr
