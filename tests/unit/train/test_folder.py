"""The run folder is checked as the user that runs, and an earlier run in it is neither mixed up nor lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from whet.checkpoint.lock import locked
from whet.errors import RecipeError, StorageError
from whet.recipe import dump_recipe, parse_recipe
from whet.train import folder


@pytest.fixture(params=[0o555, 0o000], ids=oct)
def closed_folder(request):
    """A folder of somebody else, with a folder `inner`; root, whom no rights stop, becomes another user meanwhile."""
    parent = Path(tempfile.mkdtemp(prefix="whet-test-"))
    (parent / "inner").mkdir()
    (parent / "inner").chmod(0o555)
    parent.chmod(request.param)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield parent
    if is_root:
        os.seteuid(0)
    parent.chmod(0o755)
    shutil.rmtree(parent)


@pytest.mark.parametrize("output", ["run", "inner", "inner/run"])
def test_a_folder_of_somebody_else_is_a_storage_error(closed_folder, output):
    with pytest.raises(StorageError, match="Permission denied"):
        folder.check_writable(closed_folder / output, needed_bytes=0)


def test_a_name_that_is_too_long_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="File name too long"):
        folder.check_writable(tmp_path / ("x" * 300), needed_bytes=0)


def test_the_check_leaves_an_empty_folder(tmp_path):
    folder.check_writable(tmp_path / "a" / "run", needed_bytes=1)
    assert list((tmp_path / "a" / "run").iterdir()) == []


def test_too_little_disk_is_told_with_both_numbers(tmp_path):
    with pytest.raises(StorageError, match=r"the run needs [\d,]+ MB, [\d,]+ MB are free"):
        folder.check_writable(tmp_path, needed_bytes=10**18)
    assert list(tmp_path.iterdir()) == []


RECIPE = """\
name: x
output: run
data: {train: [{source: rows.jsonl}]}
"""


def recipe(text: str = RECIPE):
    return parse_recipe(text)


def test_a_change_that_moves_weights_is_refused_and_others_are_not(tmp_path):
    folder.begin(tmp_path, dump_recipe(recipe()))
    for free in ("name: other", "tracking: []", "train: {keep: 7}"):
        text = RECIPE.replace("name: x", free) if free.startswith("name") else f"{RECIPE}{free}\n"
        folder.refuse_other_recipe(tmp_path, recipe(text))
    with pytest.raises(RecipeError, match=r"(?s)seed: 42 -> 7.*--fresh"):
        folder.refuse_other_recipe(tmp_path, recipe(f"{RECIPE}seed: 7\n"))


def test_the_set_that_decides_what_is_best_may_not_change_and_others_may(tmp_path):
    one = "evaluate: [{name: sums, source: {source: sums.jsonl}, every: 5, max_rows: %d, batch_rows: %d}]\n"
    by_answers = "train: {best_metric: eval/answer_accuracy}\n"
    folder.begin(tmp_path, dump_recipe(recipe(RECIPE + one % (4, 8) + by_answers)))
    folder.refuse_other_recipe(tmp_path, recipe(RECIPE + one % (4, 2) + by_answers))
    with pytest.raises(RecipeError, match=r"evaluate\.sums\.max_rows: 4 -> 3"):
        folder.refuse_other_recipe(tmp_path, recipe(RECIPE + one % (3, 8) + by_answers))
    folder.begin(tmp_path, dump_recipe(recipe(RECIPE + one % (4, 8))))
    folder.refuse_other_recipe(tmp_path, recipe(RECIPE + one % (3, 2)))
    folder.refuse_other_recipe(tmp_path, recipe())


def finish(run: Path) -> None:
    (run / "recipe.yaml").write_text(RECIPE)
    (run / "adapter_model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (run / "manifest.json").write_text(json.dumps({"sha256": {"adapter_model.safetensors": digest}}))
    (run / "summary.json").write_text(json.dumps({"status": "finished", "steps": 3}))


def test_finished_means_said_so_and_all_files_there(tmp_path):
    assert not folder.look(tmp_path).is_finished
    finish(tmp_path)
    assert folder.look(tmp_path).is_finished
    (tmp_path / "adapter_model.safetensors").unlink()
    assert not folder.look(tmp_path).is_finished
    (tmp_path / "manifest.json").unlink()
    assert not folder.look(tmp_path).is_finished


def test_a_finished_run_with_a_damaged_file_is_not_finished_and_says_which(tmp_path):
    finish(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weighty")
    found = folder.look(tmp_path)
    assert (found.is_finished, found.fault) == (
        False, "adapter_model.safetensors was changed or damaged (SHA-256 differs)",
    )  # fmt: skip
    with pytest.raises(StorageError, match="no checkpoint is left to write it again"):
        folder.tell_fault(tmp_path, found, print)
    (tmp_path / "checkpoint-3").mkdir()
    said: list[str] = []
    folder.tell_fault(tmp_path, found, said.append)
    assert "written again from the newest checkpoint" in said[0]


@pytest.mark.parametrize("text", ["", "{", "3", "[1]"])
def test_a_summary_that_cannot_be_read_is_refused_with_how_to_mend_it(tmp_path, text):
    finish(tmp_path)
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(StorageError, match=r"(?s)cannot be read.*remove it"):
        folder.look(tmp_path)


def test_a_recipe_of_the_run_that_cannot_be_read_is_refused_with_how_to_mend_it(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: [")
    with pytest.raises(StorageError, match=r"(?s)cannot be read.*from the run's newest checkpoint"):
        folder.refuse_other_recipe(tmp_path, recipe())


def test_a_run_that_begins_again_is_not_finished(tmp_path):
    finish(tmp_path)
    folder.begin(tmp_path, RECIPE)
    assert not folder.look(tmp_path).is_finished


def test_fresh_moves_everything_aside_and_counts_on(tmp_path):
    run = tmp_path / "run"
    for number in (1, 2):
        run.mkdir(exist_ok=True)
        (run / "metrics.jsonl").write_text(str(number))
        assert folder.set_aside(run) == tmp_path / f"run.old-{number}"
        assert (tmp_path / f"run.old-{number}" / "metrics.jsonl").read_text() == str(number)
    assert folder.set_aside(run) is None


def test_fresh_never_moves_a_run_that_is_working(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").touch()
    with locked(run), pytest.raises(StorageError, match="another run is working"):
        folder.set_aside(run)
    assert (run / "metrics.jsonl").exists()
