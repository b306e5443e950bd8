"""The evaluation plan's files hold what the stored reports hold, under the plan's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whet.errors import StorageError
from whet.evaluation.compare import compare
from whet.evaluation.plan_files import write_plan_files
from whet.evaluation.store import write_comparison, write_eval_report
from whet.types import EvalReport, Generation, Judgement

ROLLING = " A loan.\n\nQuestion: What is a share?\n\nAnswer: A part of a firm."
SCORES = {"base": (0.5, 0.7, None, 0.1), "tuned": (0.6, 0.9, 0.3, 0.3)}


def report(model: str) -> EvalReport:
    scores = SCORES[model]
    return EvalReport(
        model=model, dataset="fiqa", decoding="greedy", rows_fingerprint="f", seconds=4.0, weights=model,
        generations=tuple(
            Generation(example_id=f"{n}", prompt="Answer:", text=ROLLING if model == "base" else f"{n}",
                       num_new_tokens=9, stopped="length", seconds=1.0)
            for n in range(len(scores))
        ),
        judgements=tuple(
            Judgement(example_id=f"{n}", extracted="", golds=(f"first {n}", "2nd"), is_correct=False, has_format=True)
            for n in range(len(scores))
        ),
        scores={"semantic_similarity": scores, "answer_length": (3.0,) * len(scores)},
        figures={"corpus_perplexity": 12.5},
    )  # fmt: skip


def write_run(run: Path, names: tuple[str, ...] = ("fiqa",)) -> None:
    for name in names:
        folder = run / "evaluations" / name
        reports = [report(model) for model in ("base", "tuned")]
        for each in reports:
            write_eval_report(folder, each)
        write_comparison(folder, compare(*reports, seed=1))


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_results_have_the_plan_s_shape_and_answers_are_whole_from_their_first_letter(tmp_path):
    write_run(tmp_path / "run")
    paths = write_plan_files(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in paths] == ["baseline_results.json", "peft_results.json", "comparison_report.json"]
    base, peft = (read(tmp_path / "out" / name) for name in ("baseline_results.json", "peft_results.json"))
    assert base["metrics"]["semantic_similarity"] == {"mean": pytest.approx(1.3 / 3), "scores": [0.5, 0.7, None, 0.1]}
    assert peft["metrics"]["answer_length"] == {"mean": 3.0, "scores": [3.0] * 4}
    assert base["predictions"] == [ROLLING] * 4
    assert peft["ground_truths"] == ["first 0", "first 1", "first 2", "first 3"]
    assert (base["num_samples"], base["figures"]) == (4, {"corpus_perplexity": 12.5})


def test_improvements_are_over_the_rows_that_both_have_a_score_for(tmp_path):
    write_run(tmp_path / "run")
    write_plan_files(tmp_path / "run", tmp_path)
    document = read(tmp_path / "comparison_report.json")
    found = document["comparison"]["semantic_similarity"]
    base, peft = 1.3 / 3, 1.8 / 3
    assert (found["base"], found["peft"]) == (pytest.approx(base), pytest.approx(peft))
    assert found["improvement"] == pytest.approx(peft - base)
    assert found["improvement_pct"] == pytest.approx(100 * (peft - base) / base)
    assert found["interval"][0] <= found["improvement"] <= found["interval"][1]
    assert 0 < found["p_value"] <= 1
    assert document["comparison"]["answer_length"]["verdict"] is None
    assert (document["primary"], document["num_samples"]) == ("semantic_similarity", 4)
    assert document["verdict"] in ("better", "worse", "not distinguishable")


def test_several_sets_have_a_folder_each(tmp_path):
    write_run(tmp_path / "run", ("fiqa", "guard"))
    paths = write_plan_files(tmp_path / "run", tmp_path / "out")
    assert {path.parent.name for path in paths} == {"fiqa", "guard"} and len(paths) == 6


def test_without_a_tuned_model_there_is_no_comparison(tmp_path):
    write_eval_report(tmp_path / "run" / "evaluations" / "fiqa", report("base"))
    assert [path.name for path in write_plan_files(tmp_path / "run", tmp_path)] == ["baseline_results.json"]


def test_a_run_without_answers_is_told_how_to_get_them(tmp_path):
    with pytest.raises(StorageError, match="holds no stored answers"):
        write_plan_files(tmp_path, tmp_path)
