"""Answers are computed once: not again after an interruption, nor for another run of the same base; never mixed up."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_evaluations
from tiny_evaluations import FILES, NUM_ROWS, InterruptedError, contents, evaluate, interrupt_at

from whet.errors import StorageError
from whet.evaluation import run
from whet.evaluation.run import evaluate_run
from whet.evaluation.store import read_eval_report

pytestmark = pytest.mark.slow


def test_base_and_tuned_answer_every_row_and_differ(place, asked):
    evaluate(place / "run")
    assert len(asked) == 2 * NUM_ROWS
    base, tuned = (read_eval_report(place / "run" / "evaluations" / "sums", model) for model in ("base", "tuned"))
    assert [g.example_id for g in base.generations] == asked[:NUM_ROWS]
    assert sum(b.text != t.text for b, t in zip(base.generations, tuned.generations, strict=True)) > NUM_ROWS / 2
    left = {path.name for path in (place / "run" / "evaluations" / "sums").iterdir()}
    assert left == {*FILES, "base.summary.json", "tuned.summary.json"}


# portions are of 8 rows: the base's are whole at 8, 16 and 20
@pytest.mark.parametrize(("num_finished", "num_kept"), [(8, 0), (9, 8), (21, 20), (30, 28)])
def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_files(
    place, asked, monkeypatch, num_finished, num_kept
):
    evaluate(place / "run")
    whole = contents(place / "run")
    shutil.rmtree(place / "run" / "evaluations")
    shutil.rmtree(Path(run.cache.cache_folder()) / "answers")
    with monkeypatch.context() as patch:
        interrupt_at(patch, num_finished)
        with pytest.raises(InterruptedError):
            evaluate(place / "run")
    asked.clear()
    said = evaluate(place / "run")
    assert len(asked) == 2 * NUM_ROWS - num_kept
    assert contents(place / "run") == whole
    if num_kept in (8, 16):
        assert f"{num_kept} rows before" in said[0]


def test_answers_of_a_cut_off_write_are_taken_up_to_the_last_whole_portion(place, asked, monkeypatch):
    evaluate(place / "run")
    whole = contents(place / "run")
    shutil.rmtree(place / "run" / "evaluations")
    shutil.rmtree(Path(run.cache.cache_folder()) / "answers")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 17)
        with pytest.raises(InterruptedError):
            evaluate(place / "run")
    journal = place / "run" / "evaluations" / "sums" / "base.answers.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 16
    for damaged, num_kept in [
        (b"".join(lines)[:-20], 8),
        (b"".join(lines[:13]), 8),
        (b"".join([*lines[:3], b"{]\n", *lines[4:]]), 0),
        (b"".join([lines[0].replace(b"float32", b"float16"), *lines[1:]]), 0),
    ]:
        journal.write_bytes(damaged)
        asked.clear()
        evaluate(place / "run")
        assert len(asked) == 2 * NUM_ROWS - num_kept
        assert contents(place / "run") == whole
        shutil.rmtree(Path(run.cache.cache_folder()) / "answers")
        for name in (*FILES, "base.summary.json", "tuned.summary.json"):
            (journal.parent / name).unlink()


def test_a_second_evaluation_asks_nothing_and_changes_no_file(place, asked):
    evaluate(place / "run")
    folder = place / "run" / "evaluations" / "sums"
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    asked.clear()
    said = evaluate(place / "run")
    assert asked == []
    assert all("answered before" in sentence for sentence in said)
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()} == before


def test_fresh_asks_everything_again(place, asked):
    evaluate(place / "run")
    asked.clear()
    evaluate_run(place / "run", say=lambda _: None, fresh=True)
    assert len(asked) == 2 * NUM_ROWS


def test_another_run_of_the_same_base_takes_its_answers_and_no_other_s(place, asked):
    evaluate(place / "run")
    asked.clear()
    evaluate(place / "other")
    assert len(asked) == NUM_ROWS
    base = [contents(place / name)[0] for name in ("run", "other")]
    tuned = [contents(place / name)[1] for name in ("run", "other")]
    assert base[0] == base[1] and tuned[0] != tuned[1]


@pytest.mark.parametrize("changed", ["weights", "scale", "base config", "rows", "length", "code"])
def test_answers_are_not_used_again_when_anything_that_decides_them_has_changed(
    place, asked, tmp_path, monkeypatch, changed
):
    copy = shutil.copytree(place, tmp_path / "copy")
    recipe = copy / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(place), str(copy)))
    evaluate(copy / "run")
    before = contents(copy / "run")
    expected = 2 * NUM_ROWS
    if changed == "weights":
        shutil.copy(copy / "other" / "adapter_model.safetensors", copy / "run")
        expected = NUM_ROWS
    elif changed == "scale":
        config = copy / "run" / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 80.0}))
        expected = NUM_ROWS
    elif changed == "base config":
        config = copy / "base" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.5}))
    elif changed == "rows":
        rows = (copy / "test.jsonl").read_text().splitlines()
        (copy / "test.jsonl").write_text("\n".join([*rows[1:], rows[0]]) + "\n")
    elif changed == "length":
        recipe.write_text(recipe.read_text().replace("max_new_tokens: 12", "max_new_tokens: 11"))
    else:
        monkeypatch.setattr("whet.evaluation.questions.code_version", lambda: "another")
    asked.clear()
    evaluate(copy / "run")
    assert len(asked) == expected
    after = contents(copy / "run")
    assert (after[1] == before[1]) == (changed == "code")


def test_a_damaged_report_is_answered_again_and_said(place, asked):
    evaluate(place / "run")
    whole = contents(place / "run")
    tuned = place / "run" / "evaluations" / "sums" / "tuned.jsonl"
    tuned.write_bytes(tuned.read_bytes()[:-30])
    asked.clear()
    said = evaluate(place / "run")
    assert len(asked) == NUM_ROWS
    assert any("tuned is answered again" in sentence for sentence in said)
    assert contents(place / "run") == whole


def test_a_time_box_compares_the_first_rows_that_both_reached_and_more_time_goes_on(place, clock, asked):
    said = evaluate(place / "run", max_seconds=32)
    reports = [read_eval_report(place / "run" / "evaluations" / "sums", model) for model in ("base", "tuned")]
    assert clock.now <= 32
    assert [len(report.generations) for report in reports] == [16, 16]
    assert [report.num_rows_of_set for report in reports] == [NUM_ROWS, NUM_ROWS]
    assert "of 20: the time was up" in said[0]
    comparison = json.loads(contents(place / "run")[2])
    assert comparison["num_rows"] == 16
    assert (
        comparison["sentences"][2]
        == "Time or rows were limited: the first 16 of 20 rows were answered and are compared."
    )
    asked.clear()
    evaluate(place / "run")
    assert len(asked) == 2 * (NUM_ROWS - 16)
    boxed_then_whole = contents(place / "run")
    evaluate_run(place / "run", say=lambda _: None, fresh=True)
    assert contents(place / "run") == boxed_then_whole


def test_a_time_box_that_only_the_base_filled_keeps_its_other_rows(place, clock, asked):
    evaluate(place / "run", max_seconds=1000)
    shutil.copy(place / "other" / "adapter_model.safetensors", place / "run" / "new.safetensors")
    weights = place / "run" / "adapter_model.safetensors"
    saved = weights.read_bytes()
    try:
        (place / "run" / "new.safetensors").replace(weights)
        asked.clear()
        evaluate(place / "run", max_seconds=1)
        assert len(asked) == 8
        assert [content.count(b"\n") for content in contents(place / "run")[:2]] == [8, 8]
        asked.clear()
        evaluate(place / "run")
        assert len(asked) == NUM_ROWS - 8
    finally:
        weights.write_bytes(saved)


def test_nemo_s_rows_are_input_label_and_prediction(place, tmp_path):
    evaluate(place / "run", nemo_rows=tmp_path / "peft.jsonl")
    inputs = [json.loads(line) for line in (place / "test.jsonl").read_text().splitlines()]
    for name, model in (("peft.jsonl", "tuned"), ("peft.base.jsonl", "base")):
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        report = read_eval_report(place / "run" / "evaluations" / "sums", model)
        assert rows == [
            {"input": row["question"], "label": row["answer"], "prediction": generation.text}
            for row, generation in zip(inputs, report.generations, strict=True)
        ]


def test_a_run_folder_that_takes_no_answers_is_refused_before_a_model_is_loaded(place, monkeypatch):
    monkeypatch.setattr(run, "load_pretrained", None)
    (place / "run" / "evaluations").write_text("in the way")
    try:
        with pytest.raises(StorageError, match="answers cannot be kept here: File exists"):
            evaluate(place / "run")
    finally:
        (place / "run" / "evaluations").unlink()


def test_a_full_fine_tuning_is_evaluated_too(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    folder = tiny_evaluations.write_run(tmp_path, num_rows=8, is_full=True)
    evaluate(folder)
    base, tuned, _ = contents(folder)
    assert len(asked) == 16 and base != tuned
