"""`whet train --dry-run` knows the steps, says what is wrong with the rows, and leaves no trace in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whet.cli.rehearsal import refuse_no_place, rehearse, what_happens
from whet.errors import DataError, StorageError
from whet.recipe import parse_recipe

RECIPE = """\
name: a
output: {folder}/run
model: {{id: {folder}/model}}
data: {{train: [{{source: {folder}/a.jsonl}}]}}
batch: {{global_size: 4}}
"""


@pytest.fixture
def recipe(tmp_path, chatml):
    (tmp_path / "model").mkdir()
    chatml.save_pretrained(tmp_path / "model")
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    config = {
        "model_type": "llama",
        "vocab_size": 500,
        "architectures": ["LlamaForCausalLM"],
        "eos_token_id": 2,
        **sizes,
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    rows = [{"question": f"{n}?", "answer": f"{n}!"} for n in range(10)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return parse_recipe(RECIPE.format(folder=tmp_path))


def test_steps_are_exact_and_nothing_is_written(recipe, tmp_path):
    preview = rehearse(recipe, say=lambda _: None, fresh=False)
    assert preview.plan is not None and preview.plan.total_steps == 3 and preview.num_rows == 10
    assert not any("number of rows" in each for each in preview.unknown)
    assert any("is new" in note for note in preview.notes)
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_with_the_rows_is_said_now(recipe, tmp_path):
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"question": "x", "answer": ""}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:11"):
        rehearse(recipe, say=lambda _: None, fresh=False)


def test_what_would_happen_depends_on_what_the_folder_holds(recipe, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint-7").mkdir(parents=True)
    assert "after step 7" in what_happens(recipe, False)
    assert "moved aside" in what_happens(recipe, True)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        refuse_no_place(tmp_path / "file" / "run", needed_bytes=0)


def test_too_little_disk_is_refused_and_nothing_created(tmp_path):
    with pytest.raises(StorageError, match="too little disk"):
        refuse_no_place(tmp_path / "a" / "run", needed_bytes=10**18)
    assert not Path(tmp_path / "a").exists()
