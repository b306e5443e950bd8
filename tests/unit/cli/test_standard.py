"""The command line's benchmarks by other tools are checked first, measured last, and named where they were written."""

import json

import fake_lm_eval
import pytest
import tiny_evaluations

from whet.cli import standard
from whet.cli.evaluate import evaluate
from whet.errors import RecipeError


def test_nothing_is_asked_without_its_option():
    assert standard.ask_lm_eval(None, None, None, False, None, fresh=True) == []
    assert standard.ask_nemo_evaluator(None, None, None, None, None, None) == []


def test_an_option_of_a_tool_that_is_not_asked_is_refused(tmp_path):
    for others in ((tmp_path, None, False, None), (None, 3, False, None), (None, None, True, None)):
        with pytest.raises(RecipeError, match="--lm-eval"):
            standard.ask_lm_eval(None, *others, fresh=False)
    with pytest.raises(RecipeError, match="--nemo-evaluator"):
        standard.ask_nemo_evaluator(None, "http://127.0.0.1/v1", None, None, None, None)


def test_nemo_evaluator_needs_to_know_where_the_models_are_served():
    with pytest.raises(RecipeError, match="--endpoint URL --endpoint-models BASE,TUNED"):
        standard.ask_nemo_evaluator("gsm8k", None, "base,tuned", None, None, None)


@pytest.mark.slow
def test_evaluate_says_first_what_is_missing_and_last_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    run = tiny_evaluations.write_run(tmp_path, num_rows=8)
    absent = fake_lm_eval.write_fake(tmp_path / "absent", versions={})
    with pytest.raises(RecipeError, match=r"lm-eval is not installed(.|\n)*whet\[eval\]") as caught:
        evaluate(run, lm_eval="gsm8k", lm_eval_python=absent)
    assert caught.value.exit_code == 2 and not (run / "evaluations").exists()
    evaluate(run, lm_eval="gsm8k,arc_easy", lm_eval_python=fake_lm_eval.write_fake(tmp_path / "fake"))
    said = capsys.readouterr().out
    results = run / "evaluations" / "lm-eval" / "results.json"
    assert f"written: {results}" in said and said.index("sums") < said.index("lm-eval: gsm8k, exact_match")
    tasks = {entry["task"] for entry in json.loads(results.read_text(encoding="utf-8"))["tasks"]}
    assert tasks == {"gsm8k", "arc_easy"}
