"""A whole evaluation by the stand-in for vLLM: the answers of whet's engine, under a key of their own."""

import json
import sys

import fake_vllm
import pytest
import tiny_evaluations

from whet.errors import RecipeError, StorageError
from whet.evaluation.compare import compare
from whet.evaluation.run import EvaluateOptions, evaluate_run
from whet.evaluation.store import read_eval_report

pytestmark = pytest.mark.slow


@pytest.fixture
def with_vllm(monkeypatch, tmp_path):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    for name, module in fake_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(fake_vllm.LLM, "opened", [])


def reports(run):
    return [read_eval_report(run / "evaluations" / "sums", model) for model in ("base", "tuned")]


def answers(report):
    return [(g.example_id, g.prompt, g.text, g.num_new_tokens, g.stopped) for g in report.generations]


@pytest.mark.parametrize("is_full", [False, True], ids=["adapter", "all weights"])
def test_vllm_s_answers_are_those_of_the_own_engine_and_are_never_taken_for_them(with_vllm, tmp_path, is_full):
    tiny_evaluations.write_run(tmp_path, num_rows=6, is_full=is_full)
    run = tmp_path / "run"
    evaluate_run(run, say=lambda _: None)
    own = reports(run)
    said = []
    evaluate_run(run, say=said.append, options=EvaluateOptions(backend="vllm"))
    theirs = reports(run)
    for a, b in zip(own, theirs, strict=True):
        assert answers(a) == answers(b)
        assert b.decoding == f"{a.decoding}, written by vLLM {fake_vllm.VERSION} in float32"
    assert answers(theirs[0]) != answers(theirs[1])
    assert sum("answered 6 rows" in line for line in said) == 2
    with pytest.raises((RecipeError, StorageError)):
        compare(own[0], theirs[1], seed=0)
    # again: nothing is asked, and nothing of what was exported is left
    num_opened = len(fake_vllm.LLM.opened)
    assert num_opened == (2 if is_full else 1)
    assert fake_vllm.LLM.opened[0]["lora"] == (None if is_full else 8)
    assert not (run / "evaluations" / ".for-vllm").exists()
    again = []
    evaluate_run(run, say=again.append, options=EvaluateOptions(backend="vllm"))
    assert sum("answered before" in line for line in again) == 2
    summary = json.loads((run / "evaluations" / "sums" / "tuned.summary.json").read_text())
    assert "vLLM" in summary["decoding"]


def test_without_vllm_nothing_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    tiny_evaluations.write_run(tmp_path, num_rows=6)
    with pytest.raises(RecipeError, match="not installed"):
        evaluate_run(tmp_path / "run", say=print, options=EvaluateOptions(backend="vllm"))
