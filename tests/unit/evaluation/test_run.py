"""Answers are computed once: not again after an interruption, nor for another run of the same base; never mixed up."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_evaluations

from whet.errors import StorageError
from whet.evaluation import answers, run
from whet.evaluation.run import EvaluateOptions, evaluate_run
from whet.evaluation.store import read_eval_report

pytestmark = pytest.mark.slow

NUM_ROWS = 20
FILES = ("base.jsonl", "tuned.jsonl", "comparison.json")


class InterruptedError(BaseException):
    """What ends an evaluation in the middle."""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    tiny_evaluations.write_run(folder, num_rows=NUM_ROWS)
    tiny_evaluations.add_run(folder, "other", folder / "base", size=0.5)
    return folder


@pytest.fixture
def place(original, monkeypatch, tmp_path) -> Path:
    """The runs without any evaluation, and an empty cache."""
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    for name in ("run", "other"):
        shutil.rmtree(original / name / "evaluations", ignore_errors=True)
    return original


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Ids of the rows that a model was asked, in order."""
    ids: list[str] = []
    generate = answers.generate

    def record(model, prompts, *, keys, **others):
        ids.extend(keys)
        return generate(model, prompts, keys=keys, **others)

    monkeypatch.setattr(answers, "generate", record)
    return ids


def evaluate(folder: Path, **options) -> list[str]:
    """What it said."""
    said: list[str] = []
    evaluate_run(folder, say=said.append, options=EvaluateOptions(**options))
    return said


def contents(folder: Path) -> list[bytes]:
    return [(folder / "evaluations" / "sums" / name).read_bytes() for name in FILES]


def interrupt_at(monkeypatch, num_rows: int) -> None:
    """End the evaluation when this many rows have been finished, in the middle of a portion or at its end."""
    generate, finished = answers.generate, []

    def stop(model, prompts, *, on_finished, **others):
        def count(index, num_finished):
            on_finished(index, num_finished)
            finished.append(index)
            if len(finished) == num_rows:
                raise InterruptedError

        return generate(model, prompts, on_finished=count, **others)

    monkeypatch.setattr(answers, "generate", stop)


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


class Clock:
    """Time that passes as rows are answered."""

    def __init__(self, seconds_per_row: float) -> None:
        self.now, self.seconds_per_row = 0.0, seconds_per_row

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """One second per row."""
    clock = Clock(1.0)
    generate = answers.generate

    def slow(model, prompts, **others):
        clock.now += clock.seconds_per_row * len(prompts)
        return generate(model, prompts, **others)

    monkeypatch.setattr(answers, "generate", slow)
    for module in (answers, run):
        monkeypatch.setattr(f"{module.__name__}.time", clock_module(clock))
    monkeypatch.setattr("whet.evaluation.run.TimeBox", lambda deadline: answers.TimeBox(deadline, clock=clock))
    return clock


def clock_module(clock):
    return type("time", (), {"monotonic": staticmethod(clock)})


def test_a_time_box_compares_the_first_rows_that_both_reached_and_more_time_goes_on(place, clock, asked):
    said = evaluate(place / "run", max_seconds=32)
    reports = [read_eval_report(place / "run" / "evaluations" / "sums", model) for model in ("base", "tuned")]
    assert clock.now <= 32
    assert [len(report.generations) for report in reports] == [16, 16]
    assert [report.num_rows_of_set for report in reports] == [NUM_ROWS, NUM_ROWS]
    assert "of 20: the time was up" in said[0]
    comparison = json.loads(contents(place / "run")[2])
    assert comparison["num_rows"] == 16
    assert comparison["sentences"][2] == "Time or rows were limited: the first 16 of 20 rows were answered and are compared."
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
def metrics(folder: Path, names: str):
    """The recipe with these metrics."""
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("metrics: [answer_accuracy]", f"metrics: [{names}]"))
    yield
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
        # two tokens each: one digit or more and the end of the turn
        assert all(round(100 * share) in (0, 33, 50, 67, 100) for share in report.scores["token_accuracy"])
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
    with metrics(place / "run", "answer_accuracy]\n    max_seconds: 16\n    stop: ["):
        evaluate(place / "run")
        reports = [read_eval_report(place / "run" / "evaluations" / "sums", model) for model in ("base", "tuned")]
        assert [len(report.generations) for report in reports] == [16, 16]
        # a second time the answers are known, and their time is spent
        monotonic = 16 / sum(generation.seconds for generation in reports[0].generations)
        assert monotonic > 0
        asked.clear()
        evaluate(place / "run", max_seconds=8)
        assert asked == []


def test_the_stricter_limit_wins(place, clock, asked):
    with metrics(place / "run", "answer_accuracy]\n    max_seconds: 1000\n    stop: ["):
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
    training = place / "train.jsonl"
    saved = training.read_text()
    thirteen = " ".join(["well"] * 13)
    try:
        training.write_text(saved + json.dumps({"question": f"Say {thirteen}", "answer": "7"}) + "\n")
        evaluate(place / "run")
    finally:
        training.write_text(saved)
    base, tuned = (read_eval_report(place / "run" / "evaluations" / "sums", model) for model in ("base", "tuned"))
    assert base.seen_in_training == ()
    # none of the rows has 13 times `well` in a row
    assert tuned.seen_in_training == ()
    questions = [json.loads(line)["question"] for line in (place / "test.jsonl").read_text().splitlines()]
    most = max(questions, key=len)
    try:
        training.write_text(saved + json.dumps({"question": f"{most} It is {thirteen}", "answer": "7"}) + "\n")
        (place / "run" / "recipe.yaml").write_text((place / "run" / "recipe.yaml").read_text())
        evaluate(place / "run")
    finally:
        training.write_text(saved)
