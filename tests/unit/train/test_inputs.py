"""What a run takes in is held against its checkpoint, and what was accepted stays with every later one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from whet.checkpoint.load import Checkpoint
from whet.errors import RecipeError, StorageError
from whet.recipe import dump_recipe, parse_recipe
from whet.recipe.schema import Recipe
from whet.train.inputs import Inputs, data_files
from whet.types import RunPlan

PLAN = RunPlan(
    world_size=1, micro_batch=2, accumulation=1, global_batch=2, num_samples=8, steps_per_epoch=4, total_steps=8,
    epochs=2.0, warmup_steps=0, save_every=1, eval_every=0,
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"question": "2+2?", "answer": "4"}\n')
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer.json").write_text("{}")
    return tmp_path


def recipe(more: str = "") -> Recipe:
    return parse_recipe(f"name: x\noutput: run\ndata: {{train: [{{source: rows.jsonl}}]}}\n{more}")


def loaded(weights: str = "a" * 64) -> SimpleNamespace:
    return SimpleNamespace(identity=SimpleNamespace(weights_sha256=weights))


def data(train: str = "b" * 64, template: str = "{{ messages }}", validation: str = "") -> SimpleNamespace:
    held_out = SimpleNamespace(fingerprint=validation) if validation else None
    chat = SimpleNamespace(chat=SimpleNamespace(text=template))
    return SimpleNamespace(train=SimpleNamespace(fingerprint=train), validation=held_out, template=chat)


def look(inputs: Inputs, place: Path, *, more: str = "", plan: RunPlan = PLAN, **late: str) -> Inputs:
    inputs.look_early(recipe(more), place / "model", base_folder=place)
    base = {"weights": late.pop("weights")} if "weights" in late else {}
    inputs.look_late(loaded(**base), data(**late), plan)
    return inputs


def write(place: Path, inputs: Inputs, *, step: int, more: str = "") -> Checkpoint:
    folder = place / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump_recipe(recipe(more)))
    (folder / "inputs.json").write_text(json.dumps(inputs.document()))
    (folder / "run_plan.json").write_text(json.dumps(asdict(PLAN)))
    return Checkpoint(folder=folder, step=step)


@pytest.fixture
def checkpoint(place: Path) -> Checkpoint:
    return write(place, look(Inputs(None, is_accepting=False), place), step=4)


def test_the_same_inputs_pass(place, checkpoint):
    inputs = look(Inputs(checkpoint, is_accepting=False), place)
    assert inputs.changes == [] and inputs.document()["accepted"] == []


LATE = {
    "base weights": {"weights": "c" * 64},
    "rows train": {"train": "c" * 64},
    "chat template": {"template": "other"},
}


@pytest.mark.parametrize("what", LATE)
def test_other_weights_rows_or_templates_are_refused_and_accepted_on_request(place, checkpoint, what):
    with pytest.raises(RecipeError, match=rf"  {what}: [0-9a-f]{{12}} -> [0-9a-f]{{12}}"):
        look(Inputs(checkpoint, is_accepting=False), place, **LATE[what])
    said: list[str] = []
    inputs = look(Inputs(checkpoint, is_accepting=True, say=said.append), place, **LATE[what])
    assert len(said) == len(inputs.changes) == 1 and said[0].startswith(f"accepted: {what}")


def test_other_files_and_versions_are_told_together(place, checkpoint, monkeypatch):
    (place / "rows.jsonl").write_text("{}\n")
    (place / "model" / "tokenizer.json").unlink()
    (place / "model" / "chat_template.jinja").write_text("x")
    monkeypatch.setattr("whet.train.inputs.version", lambda _package: "0.1")
    with pytest.raises(RecipeError) as told:
        look(Inputs(checkpoint, is_accepting=False), place, more="seed: 7\n")
    for line in ("seed: 42 -> 7", "data file rows.jsonl: ", "model file chat_template.jinja: none -> ",
                 "model file tokenizer.json: ", "version of torch: "):  # fmt: skip
        assert f"\n  {line}" in str(told.value)


def test_an_added_validation_set_is_never_accepted(place, checkpoint):
    with pytest.raises(RecipeError, match=r"rows validation.*what is best so far was measured otherwise"):
        look(Inputs(checkpoint, is_accepting=True), place, validation="d" * 64)


def test_what_was_accepted_stays_with_later_checkpoints(place, checkpoint):
    first = look(Inputs(checkpoint, is_accepting=True), place, more="seed: 7\n")
    later = write(place, first, step=6, more="seed: 7\n")
    second = look(Inputs(later, is_accepting=True), place, more="seed: 7\n", train="c" * 64)
    assert second.document()["accepted"] == [
        {"after_step": 4, "changes": ["seed: 42 -> 7"]},
        {"after_step": 6, "changes": [f"rows train: {'b' * 12} -> {'c' * 12}"]},
    ]


def test_a_changed_run_that_would_end_before_its_checkpoint_is_refused(place, checkpoint):
    inputs = look(Inputs(checkpoint, is_accepting=True), place, plan=replace(PLAN, num_samples=4))
    inputs.refuse_nothing_left(4)  # only the rows are others: what follows training may still have to be done
    with pytest.raises(RecipeError, match="the run ends after step 3, and the checkpoint is of step 4"):
        inputs.refuse_nothing_left(3)
    inputs = look(Inputs(checkpoint, is_accepting=True), place, more="optim: {lr: 1.0}\n")
    with pytest.raises(RecipeError, match="the run ends after step 4"):
        inputs.refuse_nothing_left(4)
    look(Inputs(checkpoint, is_accepting=False), place).refuse_nothing_left(3)


def test_a_checkpoint_of_an_earlier_whet_is_compared_by_what_it_says(place, checkpoint):
    (checkpoint.folder / "inputs.json").unlink()
    best = {"best_step": None, "best_metric": None}
    base = {"id": "tiny", "weights_sha256": "a" * 64}
    state = {"global_step": 4, "base": base, "data_fingerprint": "b" * 64, "callbacks": {}, **best}
    (checkpoint.folder / "trainer_state.json").write_text(json.dumps(state))
    (place / "model" / "tokenizer.json").write_text("other")
    look(Inputs(checkpoint, is_accepting=False), place)
    with pytest.raises(RecipeError, match="base weights"):
        look(Inputs(checkpoint, is_accepting=False), place, weights="c" * 64)


@pytest.mark.parametrize("text", ["[]", "{}", '{"inputs": 3}', '{"inputs": {"base": 3}, "accepted": []}'])
def test_inputs_of_another_form_are_a_storage_error(checkpoint, text):
    (checkpoint.folder / "inputs.json").write_text(text)
    with pytest.raises(StorageError, match=r"inputs\.json has not the form"):
        Inputs(checkpoint, is_accepting=False)


def test_only_files_that_can_be_read_are_hashed(place):
    assert set(data_files(recipe(), place)) == {"rows.jsonl"}
    (place / "rows.jsonl").unlink()
    assert data_files(recipe(), place) == {}
