"""lm-eval is asked for the right models once, and its files are read for what they say (a fake plays lm-eval)."""

import json
from dataclasses import replace
from pathlib import Path

import fake_lm_eval
import pytest
import tiny_evaluations

from whet.errors import DataError, RecipeError, StorageError, WhetError
from whet.evaluation.standard.lm_eval import LmEvalOptions, check_lm_eval, parse_tasks, run_lm_eval
from whet.evaluation.standard.lm_eval_output import read_output
from whet.evaluation.statistics import mcnemar_p

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two runs over one base."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_evaluations.write_run(folder)
    tiny_evaluations.add_run(folder, "other", folder / "base", size=0.5)
    return folder


@pytest.fixture
def place(runs, tmp_path, monkeypatch) -> Path:
    """An empty cache, and runs that nothing was measured of."""
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    for run in ("run", "other"):
        old = runs / run / "evaluations"
        if old.exists():
            old.rename(tmp_path / f"old-{run}")
    return runs


def options(tmp_path: Path, tasks: str = "gsm8k", *, behaviour: dict | None = None, **others) -> LmEvalOptions:
    python = fake_lm_eval.write_fake(tmp_path / "fake", **(behaviour or {}))
    return LmEvalOptions(tasks=parse_tasks(tasks), python=python, **others)


def measure(run: Path, asked: LmEvalOptions) -> tuple[dict, list[str]]:
    said: list[str] = []
    path = run_lm_eval(run, asked, say=said.append, progress=lambda *_: None)
    return json.loads(path.read_text(encoding="utf-8")), said


def test_base_and_tuned_are_measured_and_paired_by_the_tools_row_ids(place, tmp_path):
    found, said = measure(place / "run", options(tmp_path))
    assert found["tool"] == "lm-eval 0.4.13"
    by_metric = {entry["metric"]: entry for entry in found["tasks"]}
    entry = by_metric["exact_match (strict-match)"]
    scores = []
    for model in ("base", "tuned"):
        [path] = (place / "run" / "evaluations" / "lm-eval" / model).rglob("samples_*.jsonl")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        scores.append({row["doc_id"]: row["exact_match"] for row in rows if "exact_match" in row})
        assert entry[model] == {"value": sum(scores[-1].values()) / 20, "stderr": 0.1}
    wins = sum(scores[1][i] > scores[0][i] for i in range(20))
    losses = sum(scores[1][i] < scores[0][i] for i in range(20))
    assert wins and losses, "the fake should make both"
    assert entry["difference"]["estimate"] == pytest.approx((wins - losses) / 20)
    assert entry["p_value"] == pytest.approx(mcnemar_p(wins, losses))
    perplexity = by_metric["perplexity"]
    assert perplexity["base"] == {"value": 7.5, "stderr": None} and perplexity["difference"] is None
    assert any("perplexity: no difference" in note for note in found["notes"])
    assert any("exact_match (strict-match): base" in line for line in said)


def test_lm_eval_gets_the_bases_folder_and_an_export_and_may_run_no_code(place, tmp_path):
    measure(place / "run", options(tmp_path, limit=5, uses_chat_template=True, model_args={"max_length": 99}))
    base, tuned = fake_lm_eval.calls(tmp_path / "fake")
    assert base["model_args"]["pretrained"] == str((place / "base").resolve())
    assert Path(tuned["model_args"]["pretrained"]).is_relative_to(place / "run" / "evaluations" / "lm-eval")
    for call in (base, tuned):
        assert call["trust_remote_code"] is False and call["model_args"]["trust_remote_code"] is False
        assert call["model_args"]["max_length"] == 99
        assert call["model_args"]["dtype"] == "float32" and call["device"] == "cpu"
        assert call["log_samples"] is True and call["limit"] == 5 and call["apply_chat_template"] is True
    assert not Path(tuned["model_args"]["pretrained"]).exists()


def test_a_base_is_measured_once_for_all_runs_and_each_run_once(place, tmp_path):
    asked = options(tmp_path, "gsm8k,arc_easy")
    first, _ = measure(place / "run", asked)
    assert len(fake_lm_eval.calls(tmp_path / "fake")) == 4
    again, said = measure(place / "run", asked)
    assert again == first and len(fake_lm_eval.calls(tmp_path / "fake")) == 4
    assert measure(place / "run", replace(asked, fresh=True))[0] == first
    assert len(fake_lm_eval.calls(tmp_path / "fake")) == 8
    other, said = measure(place / "other", asked)
    assert len(fake_lm_eval.calls(tmp_path / "fake")) == 10
    assert "lm-eval: gsm8k: base was measured before, for another run" in said
    assert other["tasks"][0]["base"] == first["tasks"][0]["base"] and other["tasks"] != first["tasks"]


@pytest.mark.parametrize("change", ["limit", "chat", "model_args", "tasks", "version", "weights", "stop tokens"])
def test_whatever_decides_the_figures_makes_them_new(place, tmp_path, change):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "rule.yaml").write_text("a: 1", encoding="utf-8")
    measure(place / "run", options(tmp_path, tasks_folder=folder))
    changed: dict = {"limit": {"limit": 4}, "chat": {"uses_chat_template": True},
                     "model_args": {"model_args": {"max_length": 9}}}.get(change, {})  # fmt: skip
    behaviour = {"versions": {"lm_eval": "0.4.14"}} if change == "version" else {}
    if change == "tasks":
        (folder / "rule.yaml").write_text("a: 2", encoding="utf-8")
    before = {}
    if change == "weights":
        path = place / "run" / "adapter_config.json"
        before[path] = path.read_bytes()
        config = json.loads(before[path])
        path.write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}), encoding="utf-8")
    if change == "stop tokens":
        path = place / "base" / "generation_config.json"
        before[path] = path.read_bytes()
        path.write_text(before[path].decode().replace("}", ' , "max_length": 9}', 1), encoding="utf-8")
    try:
        measure(place / "run", options(tmp_path, tasks_folder=folder, behaviour=behaviour, **changed))
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    num_new = 1 if change == "weights" else 2
    assert len(fake_lm_eval.calls(tmp_path / "fake")) == 2 + num_new


def test_models_that_were_asked_otherwise_are_not_compared(place, tmp_path):
    found, _ = measure(place / "run", options(tmp_path, behaviour={"asks_otherwise": True}))
    assert all(entry["difference"] is None for entry in found["tasks"])
    assert any("not asked the same" in note for note in found["notes"])


def test_a_failure_leaves_no_results_and_no_export(place, tmp_path):
    with pytest.raises(WhetError, match="KeyError: 'answer'"):
        measure(place / "run", options(tmp_path, behaviour={"fails": "KeyError: 'answer'"}))
    folder = place / "run" / "evaluations" / "lm-eval"
    assert not (folder / "results.json").exists()
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    found, _ = measure(place / "run", options(tmp_path))
    assert found["tasks"]


@pytest.mark.parametrize("document", ["", "[]", "{}", '{"results": []}', '{"results": {"a": 1}}'])
def test_results_of_another_form_are_refused_and_not_kept(place, tmp_path, document):
    with pytest.raises(DataError, match="results_2026"):
        measure(place / "run", options(tmp_path, behaviour={"document": document or "no JSON"}))
    assert not list((place / "run" / "evaluations" / "lm-eval").rglob("key.json"))


def test_a_missing_or_old_lm_eval_is_said_before_anything_is_done(tmp_path):
    with pytest.raises(RecipeError, match=r"not installed(.|\n)*whet\[eval\]"):
        check_lm_eval(options(tmp_path, behaviour={"versions": {}}))
    with pytest.raises(RecipeError, match="too old"):
        check_lm_eval(options(tmp_path, behaviour={"versions": {"lm_eval": "0.4.9.1"}}))
    with pytest.raises(RecipeError, match="no such folder"):
        check_lm_eval(options(tmp_path, tasks_folder=tmp_path / "none"))
    with pytest.raises(RecipeError, match="trust_remote_code is set by whet"):
        check_lm_eval(options(tmp_path, model_args={"trust_remote_code": True}))
    for tasks in ("", ",", "--trust_remote_code"):
        with pytest.raises(RecipeError, match="no task is named"):
            check_lm_eval(options(tmp_path, tasks))


def test_a_run_without_weights_is_refused(place, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "recipe.yaml").write_bytes((place / "run" / "recipe.yaml").read_bytes())
    with pytest.raises(StorageError, match="no final weights"):
        measure(empty, options(tmp_path))


def test_a_group_has_its_value_and_its_subtasks_their_rows(tmp_path):
    document = {
        "results": {
            "both": {"alias": "both", "acc,none": 0.5, "acc_stderr,none": 0.2},
            "one": {"alias": "one", "acc,none": 1.0, "acc_stderr,none": "N/A", "bad,none": float("nan")},
        },
        "group_subtasks": {"both": ["one", "two"]},
        "n-samples": {"one": {"effective": 2}, "two": {"effective": 3}},
    }
    (tmp_path / "results_1.json").write_text(json.dumps(document), encoding="utf-8")
    row = {"filter": "none", "metrics": ["acc"], "acc": True, "doc_hash": "d", "prompt_hash": "p", "target_hash": "t"}
    lines = [json.dumps({**row, "doc_id": i}) for i in range(2)]
    (tmp_path / "samples_one_2026.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    both, one = read_output(tmp_path)
    assert (both.task, both.num_rows, both.stderr, both.rows) == ("both", 5, 0.2, {})
    assert (one.task, one.num_rows, one.value, one.stderr) == ("one", 2, 1.0, None)
    assert [r.score for r in one.rows.values()] == [1.0, 1.0]


def test_a_row_that_was_answered_twice_has_no_one_score(tmp_path):
    (tmp_path / "results_1.json").write_text(json.dumps({"results": {"one": {"acc,none": 0.5}}}), encoding="utf-8")
    row = {"doc_id": 0, "filter": "none", "metrics": ["acc"], "acc": 1, "doc_hash": "", "prompt_hash": "",
           "target_hash": ""}  # fmt: skip
    (tmp_path / "samples_one_2026.jsonl").write_text(2 * (json.dumps(row) + "\n"), encoding="utf-8")
    assert read_output(tmp_path)[0].rows == {}
    del row["prompt_hash"]
    (tmp_path / "samples_one_2026.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"samples_one_2026.jsonl:1.*prompt_hash"):
        read_output(tmp_path)


def test_names_of_tasks_are_split_and_each_is_taken_once():
    assert parse_tasks(" gsm8k, arc_easy,,gsm8k ") == ("gsm8k", "arc_easy")
