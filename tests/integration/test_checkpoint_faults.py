"""Damaged checkpoints, changed inputs, a second run in the folder, a finished run: each answered with a sentence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from whet.checkpoint.lock import locked

pytestmark = pytest.mark.slow


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero_second_half(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_damaged_checkpoints_are_ignored_with_a_sentence_and_an_older_one_is_used(workplace, uninterrupted):
    run = uninterrupted.copy_to(workplace)
    flip_bit(run / "checkpoint-8" / "adapter_model.safetensors")
    (run / "checkpoint-7" / "random_state.safetensors").unlink()
    shutil.copytree(run / "checkpoint-6", run / ".checkpoint-9.123.tmp")
    said = workplace.train()
    assert "ignored checkpoint-8: adapter_model.safetensors was changed or damaged" in said
    assert "ignored checkpoint-7: random_state.safetensors is missing" in said
    assert "continuing after step 6 of 8" in said
    assert workplace.trajectory() == uninterrupted.trajectory
    assert workplace.hashes() == uninterrupted.hashes
    assert not (run / ".checkpoint-9.123.tmp").exists()


def test_pickles_in_checkpoints_are_never_opened(workplace, uninterrupted, plant_bombs):
    run = uninterrupted.copy_to(workplace)
    zero_second_half(run / "checkpoint-8" / "optimizer.safetensors")
    plant_bombs(run / "checkpoint-7", workplace.folder / "canary", "optimizer.pt")
    plant_bombs(run, workplace.folder / "canary")
    said = workplace.train()
    assert "ignored checkpoint-8: optimizer.safetensors was changed or damaged" in said
    assert "ignored checkpoint-7: optimizer.pt does not belong to the checkpoint" in said
    assert workplace.hashes() == uninterrupted.hashes


def test_without_one_whole_checkpoint_the_run_stops_instead_of_starting_anew(workplace, uninterrupted, plant_bombs):
    run = uninterrupted.copy_to(workplace)
    truncate(run / "checkpoint-8" / "trainer_state.json")
    (run / "checkpoint-7" / "manifest.json").unlink()
    shutil.rmtree(run / "checkpoint-6")
    (run / "checkpoint-6").mkdir()
    plant_bombs(run / "checkpoint-6", workplace.folder / "canary")
    before = (run / "metrics.jsonl").read_bytes()
    said = workplace.train(expect=5)
    assert "none of its checkpoints is whole" in said and "--fresh" in said
    assert (run / "metrics.jsonl").read_bytes() == before


def test_an_adapter_folder_is_no_model_and_its_pickles_stay_shut(workplace, uninterrupted, plant_bombs):
    run = uninterrupted.copy_to(workplace, is_finished=True)
    plant_bombs(run, workplace.folder / "canary")
    said = workplace.train(f"model.id={run}", f"output={workplace.folder / 'other'}", expect=2)
    assert "holds an adapter" in said


def test_a_finished_run_prints_its_summary_and_trains_nothing(workplace, uninterrupted):
    run = uninterrupted.copy_to(workplace, is_finished=True)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    said = workplace.train()
    assert "tiny: 8 steps, was finished before" in said
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {".lock", "rank-0.json", "report.html"}


def test_a_finished_run_that_lost_its_weights_gets_them_back(workplace, uninterrupted):
    run = uninterrupted.copy_to(workplace, is_finished=True)
    (run / "adapter_model.safetensors").unlink()
    assert "continuing after step 8 of 8" in workplace.train()
    assert workplace.hashes() == uninterrupted.hashes
    assert workplace.trajectory() == uninterrupted.trajectory


def test_a_changed_recipe_is_refused_with_the_difference_and_fresh_moves_the_old_run_aside(workplace, uninterrupted):
    run = uninterrupted.copy_to(workplace, is_finished=True)
    change = ("optim.lr=0.001", "train.max_steps=1")
    said = workplace.train(*change, expect=2)
    assert "optim.lr: 0.005 -> 0.001" in said
    assert "--fresh" in said
    assert workplace.trajectory() == uninterrupted.trajectory
    said = workplace.train(*change, "--fresh")
    assert "run.old-1" in said
    assert workplace.trajectory("run.old-1") == uninterrupted.trajectory
    assert workplace.hashes("run.old-1") == uninterrupted.hashes
    assert len(workplace.steps()) == 1
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_rows_changed_before_the_continuation_are_refused(workplace, uninterrupted):
    """The file keeps its name and the number of rows."""
    run = uninterrupted.copy_to(workplace)
    own_rows = workplace.folder / "rows.jsonl"
    own_rows.write_text(workplace.rows.read_text().replace("It is 2.", "It is 3."))
    recipe = (run / "recipe.yaml").read_text().replace(str(workplace.rows), str(own_rows))
    rewrite_recipe(run, recipe)
    workplace.rows = own_rows
    workplace.write_recipe()
    facts = (run / "data.json").read_bytes()
    said = workplace.train(expect=2)
    assert "was begun with other inputs" in said and f"data file {own_rows}: none -> " in said
    assert (run / "data.json").read_bytes() == facts


def rewrite_recipe(run: Path, text: str) -> None:
    """As if the run had been started with `text`: in the run folder and, with its hash, in the checkpoints."""
    from whet.checkpoint.manifest import write_manifest

    (run / "recipe.yaml").write_text(text)
    for step in (6, 7, 8):
        (run / f"checkpoint-{step}" / "recipe.yaml").write_text(text)
        write_manifest(run / f"checkpoint-{step}", step=step)


def test_other_base_weights_are_refused(workplace, uninterrupted, tiny_model):
    run = uninterrupted.copy_to(workplace)
    other = shutil.copytree(tiny_model, workplace.folder / "tiny")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    rewrite_recipe(run, (run / "recipe.yaml").read_text().replace(str(tiny_model), str(other)))
    workplace.model = other
    workplace.write_recipe()
    said = workplace.train(expect=2)
    assert "  base weights: " in said


def test_a_second_run_in_the_folder_is_refused_and_names_the_first(workplace, uninterrupted):
    run = uninterrupted.copy_to(workplace)
    with locked(run):
        said = workplace.train(expect=5)
        assert f"another run is working in this folder (process {os.getpid()} on" in said
        said = workplace.train("--fresh", expect=5)
        assert "another run is working in this folder" in said
    assert not (workplace.folder / "run.old-1").exists()
    assert workplace.trajectory() == uninterrupted.trajectory
