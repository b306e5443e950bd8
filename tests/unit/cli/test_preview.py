"""The numbers of a run before it starts, and what is said where one is not known."""

from __future__ import annotations

import pytest

from whet.cli.preview import count_rows, preview_lines, preview_run, size
from whet.errors import RecipeError
from whet.recipe import parse_recipe
from whet.recipe.schema import Source


def test_rows_of_local_files_and_generators_are_counted(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n  \n{"a": 3}', encoding="utf-8")
    assert count_rows(Source(source=str(file))) == 3
    assert count_rows(Source(source=str(file), split="train[1:]")) == 2
    assert count_rows(Source(source=str(file), rows=2)) == 2
    assert count_rows(Source(source="reasoning-gym:lcm", rows=70)) == 70
    assert count_rows(Source(source=str(tmp_path / "no.jsonl"))) == "there is no such file"
    assert count_rows(Source(source="owner/unknown")) == "unknown until the rows are read"


def test_rows_of_known_hub_datasets_need_no_network_and_give_the_published_steps():
    assert count_rows(Source(source="databricks/databricks-dolly-15k")) == 12_008
    assert count_rows(Source(source="rajpurkar/squad", split="validation[:100]")) == 100
    published = [
        ("meta-math/MetaMathQA", 128, 2, 6_172),
        ("openai/gsm8k", 64, 5, 585),
        ("explodinggradients/fiqa", 16, 3, 1_032),
    ]
    for hub_id, global_size, epochs, steps in published:
        recipe = parse_recipe(
            f"name: a\noutput: b\ndata: {{train: [{{source: {hub_id}}}]}}\n"
            f"batch: {{global_size: {global_size}}}\ntrain: {{epochs: {epochs}}}\n"
        )
        plan = preview_run(recipe).plan
        assert plan is not None and plan.total_steps == steps


def test_a_local_file_that_a_split_rule_cuts_counts_its_part(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"instruction": "a", "response": "b"}\n' * 100, encoding="utf-8")
    assert [count_rows(Source(source=str(file), split=split)) for split in ("train", "validation", "test", "all")] == [
        80, 15, 5, 100,
    ]  # fmt: skip
    assert count_rows(Source(source=str(file), format="question_answer")) == 100


def test_rows_of_a_real_file_give_the_published_steps(test_data):
    files = sorted((test_data / "gsm8k").rglob("*train*.jsonl"))
    if not files:
        pytest.skip("the data folder holds no gsm8k training file")
    recipe = parse_recipe(
        f"name: a\noutput: b\ndata: {{train: [{{source: {files[0]}}}]}}\n"
        "batch: {global_size: 64}\ntrain: {epochs: 5}\n"
    )
    plan = preview_run(recipe).plan
    assert plan is not None and (plan.num_samples, plan.total_steps) == (7473, 585)


def test_a_time_budget_is_shown_as_an_upper_bound():
    recipe = parse_recipe(
        "name: a\noutput: b\ndata: {train: [{source: 'reasoning-gym:lcm', rows: 1600}]}\ntrain: {fit_seconds: 60}\n"
    )
    lines = dict(preview_lines(preview_run(recipe)))
    assert lines["steps"].startswith("at most 100 ")
    assert "fitted to the time budget" in lines["unknown"]


def test_full_tuning_shows_the_whole_model():
    recipe = parse_recipe("name: a\noutput: b\nadapter: {method: none}\ndata: {train: [{source: o/d}]}\n")
    lines = dict(preview_lines(preview_run(recipe, num_rows=10)))
    assert lines["trainable weights"] == "134,515,008 (100 % of the weights in training)"
    assert lines["model files"] == "538.06 MB (513.13 MiB), float32"


def test_an_adapter_that_starts_inside_the_base_is_saved_at_twice_its_size():
    recipe = parse_recipe("name: a\noutput: b\nadapter: {init: pissa, rslora: true}\ndata: {train: [{source: o/d}]}\n")
    lines = dict(preview_lines(preview_run(recipe, num_rows=10)))
    assert lines["trainable weights"].startswith("2,442,240 ")
    assert lines["adapter file"] == "19.54 MB (18.63 MiB), float32"  # 2 x 4 x 2,442,240
    assert lines["one checkpoint"] == "39.08 MB (37.27 MiB)"  # and two moments of what trains


def test_a_sample_longer_than_the_model_was_made_for_is_noted():
    recipe = parse_recipe("name: a\noutput: b\ndata: {train: [{source: o/d}], max_length: 9000}\n")
    assert "more than the 8,192 positions" in preview_run(recipe).notes[0]


def test_targets_and_world_sizes_that_do_not_work_are_recipe_errors():
    recipe = parse_recipe("name: a\noutput: b\ndata: {train: [{source: o/d}]}\nadapter: {targets: [c_attn]}\n")
    with pytest.raises(RecipeError, match="no linear layer c_attn"):
        preview_run(recipe)
    with pytest.raises(RecipeError, match="world size 3"):
        preview_run(recipe, world_size=3)


def test_sizes_are_told_in_both_units():
    assert size(27_262_976) == "27.26 MB (26.00 MiB)"
    assert size(16_060_522_496) == "16.06 GB (14.96 GiB)"
