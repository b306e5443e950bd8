"""The reference is generated from the schema and the committed pages are up to date."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whet.cli.recipe import reference_files
from whet.recipe import parse_recipe
from whet.recipe.explain import explain_recipe, json_schema, reference_markdown
from whet.recipe.fields import all_keys, field_infos, section_of, type_at
from whet.recipe.schema import Recipe

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


@pytest.mark.parametrize("name", ["recipe.md", "recipe.schema.json"])
def test_the_committed_reference_is_up_to_date(name):
    committed = (REFERENCE / name).read_text(encoding="utf-8")
    assert committed == reference_files()[name], "run: whet recipe reference --output docs/reference"


def test_every_key_has_a_meaning_in_the_reference():
    page = reference_markdown()
    for path in all_keys():
        assert f"| `{path[-1]}` |" in page
        parent = section_of(type_at(path[:-1])) or Recipe
        inner = section_of(type_at(path))
        text = field_infos(parent)[str(path[-1])].description or (inner.__doc__ if inner else "")
        assert text and " ".join(text.split()).replace("|", "\\|") in page


def test_the_schema_refuses_unknown_keys_and_names_what_is_required():
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"name", "output", "data"}
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())
    json.dumps(schema, allow_nan=False)


def test_a_recipe_is_told_in_sentences():
    text = "\n".join(
        explain_recipe(
            parse_recipe(
                "name: a\noutput: runs/a\nadapter: {rank: 16, alpha: 32, targets: [q_proj]}\n"
                "data: {train: [{source: 'reasoning-gym:lcm', rows: 2000}]}\ntrain: {fit_seconds: 300}\n"
                "evaluate: [{name: held, source: {source: 'reasoning-gym:lcm', split: test, rows: 100}}]\n"
            )
        )
    )
    assert "LoRA adapter of rank 16 (scale 2) on q_proj of smollm2-135m-instruct" in text
    assert "reasoning-gym:lcm [train, 2,000 generated]" in text
    assert "what fits into 300 s, at most one pass over the rows" in text
    assert "Base and tuned answer reasoning-gym:lcm [test, 100 generated] (held)." in text


def test_the_kind_of_adapter_is_told():
    def first(adapter):
        return explain_recipe(
            parse_recipe(f"name: a\noutput: b\nadapter: {adapter}\ndata: {{train: [{{source: r.csv}}]}}\n")
        )[0]

    plain = first("{rank: 16, alpha: 16, rslora: true, init: pissa, ranks: {q_proj: 4}}")
    assert plain.startswith(
        "Trains a LoRA adapter of rank 16 (scale 4, 4 on q_proj), started by pissa, on every linear"
    )
    other = first("{method: dora, also_train: [norms], lr_ratio: 16}")
    assert other.startswith("Trains a DoRA adapter of rank 8 (scale 2) on")
    assert "smollm2-135m-instruct and all its norms (B at 16 times the learning rate), seed 42." in other


def test_a_run_that_evaluates_nothing_is_told_so():
    lines = explain_recipe(
        parse_recipe("name: a\noutput: b\nadapter: {method: none}\ndata: {train: [{source: r.csv}]}\n")
    )
    assert lines[0] == "Trains all weights of smollm2-135m-instruct, seed 42."
    assert "Nothing is evaluated: the run cannot say whether tuning helped." in lines


def test_mix_template_and_packs_are_told():
    text = (
        "name: a\noutput: b\nbatch: {unit: packs}\ndata:\n  train: [{source: a.jsonl}]\n  template: plain\n"
        "  prompt: fiqa\n"
    )
    sentences = " ".join(explain_recipe(parse_recipe(text)))
    assert "template plain, prompt 'fiqa'" in sentences and "16 packs of at most 1,024 tokens per step" in sentences
    assert "at most 1% of the rows dropped" in sentences
    text = (
        "name: a\noutput: b\ndata:\n  train: [{source: a.jsonl, weight: 3}, {source: b.jsonl, weight: 1}]\n"
        "  chat_template: llama-3\n"
    )
    sentences = " ".join(explain_recipe(parse_recipe(text)))
    assert "mixed 3 : 1; chat template llama-3" in sentences and "16 samples per step" in sentences
