"""Scores are made anew from answers that are kept; what they take is measured once, and limits are kept."""

import json
import math
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_evaluations import NUM_ROWS, InterruptedError, contents, evaluate, interrupt_at

from whet.errors import RecipeError
from whet.evaluation import run, seen_rows
from whet.evaluation.run import EvaluateOptions, evaluate_run
from whet.evaluation.store import read_eval_report

pytestmark = pytest.mark.slow


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """Ids of the rows whose gold answers were measured, in order."""
    ids: list[str] = []
    measure = run.gold_likelihoods

    def record(loaded, template, examples):
        ids.extend(example.id for example in examples)
        return measure(loaded, template, examples)

    monkeypatch.setattr(run, "gold_likelihoods", record)
    return ids


MODEL_METRICS = "token_f1, loss, perplexity, token_accuracy, bleu, seconds_per_example"


@contextmanager
def metrics(folder: Path, names: str = "answer_accuracy", *, more: str = ""):
    """The recipe with these metrics, and one more setting of the set."""
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("metrics: [answer_accuracy]", f"metrics: [{names}]\n    {more}"))
    try:
        yield
    finally:
        recipe.write_text(text)


def test_every_row_has_its_scores_and_they_are_what_its_answer_is_worth(place):
    with metrics(place / "run", MODEL_METRICS):
        evaluate(place / "run")
    for model in ("base", "tuned"):
        report = read_eval_report(place / "run" / "evaluations" / "sums", model)
        assert list(report.scores) == MODEL_METRICS.split(", ")
        assert all(len(scores) == NUM_ROWS for scores in report.scores.values())
        assert report.scores["seconds_per_example"] == tuple(g.seconds for g in report.generations)
        assert report.scores["perplexity"] == pytest.approx([math.exp(loss) for loss in report.scores["loss"]])
        assert all(0 <= share <= 1 for share in report.scores["token_accuracy"])
        assert set(report.figures) == {"corpus_bleu", "corpus_perplexity"}
        summary = json.loads((place / "run" / "evaluations" / "sums" / f"{model}.summary.json").read_text())
        losses = report.scores["loss"]
        assert summary["metrics"]["loss"]["mean"] == pytest.approx(sum(losses) / NUM_ROWS)
        assert (summary["metrics"]["loss"]["unit"], summary["metrics"]["loss"]["num_rows"]) == ("nats per token", 20)


def test_other_metrics_generate_nothing_and_score_like_an_evaluation_that_had_them_from_the_start(
    place, asked, measured
):
    with metrics(place / "other", MODEL_METRICS):
        evaluate(place / "other")
    expected = contents(place / "other")[:2]
    for path in (place / "other" / "evaluations").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    evaluate(place / "other")
    asked.clear(), measured.clear()
    with metrics(place / "other", MODEL_METRICS):
        evaluate(place / "other")
    assert asked == []
    assert len(measured) == NUM_ROWS  # the tuned model's; the base's were in the cache
    assert contents(place / "other")[:2] == expected


def test_likelihoods_of_a_base_are_measured_for_its_first_run_only(place, measured):
    with metrics(place / "run", "loss"), metrics(place / "other", "token_accuracy, perplexity"):
        evaluate(place / "run")
        assert len(measured) == 2 * NUM_ROWS
        evaluate(place / "other")
        assert len(measured) == 3 * NUM_ROWS
        evaluate(place / "run"), evaluate(place / "other")
        assert len(measured) == 3 * NUM_ROWS
    evaluate(place / "run")
    assert len(measured) == 3 * NUM_ROWS


@pytest.mark.parametrize("num_finished", [9, 30])
def test_an_interrupted_evaluation_ends_with_the_same_scores(place, asked, monkeypatch, num_finished):
    with metrics(place / "run", "loss, token_f1"):
        evaluate(place / "run")
        whole = contents(place / "run")
        shutil.rmtree(place / "run" / "evaluations")
        shutil.rmtree(Path(run.cache.cache_folder()) / "answers")
        with monkeypatch.context() as patch:
            interrupt_at(patch, num_finished)
            with pytest.raises(InterruptedError):
                evaluate(place / "run")
        evaluate(place / "run")
        assert contents(place / "run") == whole


def test_a_stored_judgement_is_not_believed_but_made_anew(place, asked):
    """So that a mended extraction, or another judge, counts without a new answer."""
    evaluate(place / "run")
    path = place / "run" / "evaluations" / "sums" / "tuned.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"is_correct": false', '"is_correct": true'))
    asked.clear()
    evaluate(place / "run")
    assert asked == []
    assert path.read_text() == whole


def test_a_missing_library_is_told_before_a_model_is_loaded(place, monkeypatch):
    monkeypatch.setattr(run, "load_pretrained", None)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with metrics(place / "run", "answer_accuracy, bleu"), pytest.raises(RecipeError, match=r"whet\[metrics\]"):
        evaluate(place / "run")


def test_the_recipe_s_time_is_for_one_model_and_set_and_is_not_given_twice(place, clock, asked):
    with metrics(place / "run", more="max_seconds: 16"):
        evaluate(place / "run")
        reports = [read_eval_report(place / "run" / "evaluations" / "sums", model) for model in ("base", "tuned")]
        assert [len(report.generations) for report in reports] == [16, 16]
        asked.clear()
        evaluate(place / "run")
        assert asked == []


def test_the_stricter_limit_wins(place, clock, asked):
    with metrics(place / "run", more="max_seconds: 1000"):
        evaluate(place / "run", max_seconds=16)
    assert len(asked) == 16


def test_only_the_first_rows_are_answered_when_that_is_asked_for_and_the_others_later(place, asked):
    evaluate(place / "run", max_rows=10)
    reports = [read_eval_report(place / "run" / "evaluations" / "sums", model) for model in ("base", "tuned")]
    assert [len(report.generations) for report in reports] == [10, 10]
    assert len(asked) == 20
    evaluate(place / "run")
    assert len(asked) == 2 * NUM_ROWS


def test_the_base_alone_needs_no_tuned_model(place, asked, tmp_path):
    (tmp_path / "recipe.yaml").write_text((place / "run" / "recipe.yaml").read_text())
    assert evaluate_run(tmp_path, say=lambda _: None, options=EvaluateOptions(base_only=True)) == []
    assert len(asked) == NUM_ROWS
    assert len(read_eval_report(tmp_path / "evaluations" / "sums", "base").generations) == NUM_ROWS
    assert not (tmp_path / "evaluations" / "sums" / "tuned.summary.json").exists()


def test_rows_that_training_has_shown_are_named_in_the_tuned_report(place, monkeypatch):
    searches = []
    find = seen_rows.find_seen_rows
    monkeypatch.setattr(seen_rows, "find_seen_rows", lambda *sides: searches.append(1) or find(*sides))
    training = place / "train.jsonl"
    saved = training.read_text()
    # of 13 words, the most that these rows have
    shown = json.loads((place / "test.jsonl").read_text().splitlines()[3])["question"]
    try:
        training.write_text(saved + json.dumps({"question": f"I said: {shown}", "answer": "7"}) + "\n")
        evaluate(place / "run")
        evaluate(place / "run")
        assert len(searches) == 1
        base, tuned = (read_eval_report(place / "run" / "evaluations" / "sums", model) for model in ("base", "tuned"))
        assert base.seen_in_training == ()
        assert tuned.seen_in_training == (tuned.generations[3].example_id,)
        evaluate(place / "run", max_rows=3)
        assert read_eval_report(place / "run" / "evaluations" / "sums", "tuned").seen_in_training == ()
    finally:
        training.write_text(saved)
    evaluate(place / "run")
    assert len(searches) == 2
    assert read_eval_report(place / "run" / "evaluations" / "sums", "tuned").seen_in_training == ()
