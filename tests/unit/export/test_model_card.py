"""The model card says what the run wrote down, names what it did not, and lets no name break out of its place."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from whet.errors import StorageError
from whet.export.model_card import Card, escape, write_model_card
from whet.types import ModelIdentity

BASE = ModelIdentity(id="meta-llama/Llama-3.1-8B", revision="0e9e39f", weights_sha256="ab" * 32)
RECIPE = {
    "version": 1,
    "name": "r",
    "output": "/secret/place/run",
    "adapter": {"rank": 4, "targets": ["q_proj", "v_proj"]},
    "data": {"train": [{"source": "/secret/place/rows.jsonl"}, {"source": "owner/set", "split": "train[:50]"}]},
    "evaluate": [
        {"name": "sums", "source": {"source": "sums.jsonl"}},
        {"name": "words", "source": {"source": "words.jsonl"}},
    ],
}
COMPARISON = {
    "dataset": "sums", "num_rows": 128, "verdict": "not distinguishable", "sentences": ["tuned answered 58 of 128."],
    "difference": {"estimate": 0.047, "low": -0.01, "high": 0.1, "level": 0.95},
}  # fmt: skip
LEDGER = {
    "sets": [
        {"name": "train", "num_rows": 1000, "counts": {
            "kept": 990, "bad": 1, "left out": 2, "too long": 3, "duplicate": 4, "truncated": 0}}
    ]
}  # fmt: skip


@pytest.fixture
def card(tmp_path) -> Card:
    run = tmp_path / "run"
    (run / "evaluations" / "sums").mkdir(parents=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (run / "ledger.json").write_text(json.dumps(LEDGER))
    (run / "evaluations" / "sums" / "comparison.json").write_text(json.dumps(COMPARISON))
    return Card(run_folder=run, title="my run", what="A LoRA adapter.", base=BASE, proof="equal within 1e-5")


def written(card: Card, folder: Path, *files: str) -> tuple[dict, str]:
    """(front matter, body) of the card in a folder with the named files."""
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).write_text("{}")
    write_model_card(folder, card)
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_verdict_comes_with_its_interval(card, tmp_path):
    _, body = written(card, tmp_path / "out", "adapter_config.json")
    assert (
        "**sums** (128 rows): **not distinguishable**, +4.7 points of accuracy (95 % interval -1.0 to +10.0)." in body
    )
    assert "- tuned answered 58 of 128." in body


def test_what_was_asked_for_and_not_evaluated_is_named(card, tmp_path):
    _, body = written(card, tmp_path / "out", "adapter_config.json")
    assert "Asked for but not evaluated: words." in body
    (card.run_folder / "evaluations" / "sums" / "comparison.json").unlink()
    assert "**Not evaluated**" in written(card, tmp_path / "out")[1]


def test_every_row_of_the_ledger_is_accounted_for(card, tmp_path):
    _, body = written(card, tmp_path / "out", "adapter_config.json")
    assert "| train | 1,000 | 990 | 1 | 2 | 3 | 4 | 0 |" in body
    assert "| adapter.rank | 4 |" in body
    assert "| adapter.targets | q\\_proj, v\\_proj |" in body


def test_the_card_says_which_step_the_weights_are_of(card, tmp_path):
    assert "Of the run" not in written(card, tmp_path / "before", "adapter_config.json")[1]
    sentences = [
        "checkpoint-best is step 9: eval/loss 1.5 (lower is better)",
        "the final weights are those of step 9, the best",
    ]
    (card.run_folder / "summary.json").write_text(json.dumps({"sentences": sentences}), encoding="utf-8")
    text = written(card, tmp_path / "after", "adapter_config.json")[1]
    assert f"Of the run: {sentences[0]}; {sentences[1]}." in text


def test_no_path_of_the_machine_is_published(card, tmp_path):
    _, body = written(card, tmp_path / "out", "adapter_config.json")
    assert "rows.jsonl (split train)" in body
    assert "owner/set (split train\\[:50\\])" in body
    assert "secret" not in body and str(tmp_path) not in body


@pytest.mark.parametrize(
    ("file", "library", "relation"),
    [("adapter_config.json", "peft", "adapter"), ("model.safetensors", "transformers", "finetune"),
     ("model.gguf", "gguf", "finetune"), ("adapter.gguf", "gguf", "adapter")],
)  # fmt: skip
def test_the_hub_is_told_base_and_library(card, tmp_path, file, library, relation):
    head, _ = written(card, tmp_path / "out", file)
    assert (head["library_name"], head["base_model"], head["base_model_relation"]) == (library, BASE.id, relation)


def test_a_base_that_is_not_on_the_hub_is_not_named_as_if_it_were(card, tmp_path):
    head, body = written(replace(card, base=replace(BASE, id="my-folder")), tmp_path / "out", "adapter_config.json")
    assert "base_model" not in head
    assert "The base is my-folder" in body
    assert "FOLDER-OF-THE-BASE" in body


def test_the_licence_is_the_one_that_the_base_states_or_not_recorded(card, tmp_path):
    head, body = written(card, tmp_path / "out", "adapter_config.json")
    assert "license" not in head and "Not recorded." in body
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: llama3.1\n---\n# Llama\n")
    head, body = written(replace(card, base_folder=base), tmp_path / "out")
    assert head["license"] == "llama3.1" and "The base is under llama3.1" in body
    (base / "README.md").write_text("---\nlicense: 'x\\n- [y](z)'\n---\n")
    assert "license" not in written(replace(card, base_folder=base), tmp_path / "out")[0]


HOSTILE = "a|b\n# c\n[x](http://evil) <script>alert(1)</script> `d` ![i](j) \u202e www.evil.org _e_"


def test_hostile_names_stay_text(card, tmp_path):
    shown = escape(HOSTILE)
    assert "\n" not in shown and "\u202e" not in shown
    for sign in ("<", ">", "://", "www.", "@"):
        assert sign not in shown
    for sign in "|[]`_":
        assert shown.count(sign) == shown.count("\\" + sign)
    evil = replace(card, title=HOSTILE, base=replace(BASE, id=HOSTILE, note=HOSTILE), notes=(HOSTILE,), proof=HOSTILE)
    comparison = COMPARISON | {"dataset": HOSTILE, "verdict": HOSTILE, "sentences": [HOSTILE]}
    (card.run_folder / "evaluations" / "sums" / "comparison.json").write_text(json.dumps(comparison))
    head, body = written(evil, tmp_path / "out", "adapter_config.json")
    assert "base_model" not in head
    assert "<script" not in body and "\n# c" not in body
    assert not re.search(r"(?<!\\)\]\(", body), "a link"


def test_a_foreign_adapter_has_data_and_settings_not_recorded(card, tmp_path):
    empty = tmp_path / "foreign"
    empty.mkdir()
    _, body = written(replace(card, run_folder=empty, proof=None), tmp_path / "out", "adapter_config.json")
    assert body.count("Not recorded") == 3
    assert "Not proved equal." in body


def test_a_damaged_comparison_is_named(card, tmp_path):
    (card.run_folder / "evaluations" / "sums" / "comparison.json").write_text('{"dataset": "sums"}')
    with pytest.raises(StorageError, match=r"comparison\.json: is damaged"):
        written(card, tmp_path / "out")


def test_another_primary_metric_is_told_in_its_own_unit(card, tmp_path):
    change = {
        "role": "guard",
        "difference": {"estimate": -1.5, "low": -2.25, "high": 0.5, "level": 0.95},
        "metrics": [{"name": "bleu", "unit": "BLEU points, 0 to 100"}],
    }
    (card.run_folder / "evaluations" / "sums" / "comparison.json").write_text(json.dumps(COMPARISON | change))
    _, body = written(card, tmp_path / "out")
    shown = "(128 rows, guard): **not distinguishable**, -1.5 BLEU points of bleu (95 % interval -2.25 to +0.5)."
    assert f"**sums** {shown}" in body
