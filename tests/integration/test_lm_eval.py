"""lm-eval itself measures a tiny run on tasks of our own, whose figures are recomputed here from its logged rows."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import tiny_evaluations
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from whet.errors import RecipeError
from whet.evaluation.standard.lm_eval import LmEvalOptions, run_lm_eval

pytestmark = pytest.mark.slow

TASKS = {
    "whet_choice": """
output_type: multiple_choice
doc_to_target: "{{gold}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "whet_likelihood": """
output_type: loglikelihood
doc_to_target: "{{answer}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}
NUM_ROWS = 10
PYTHON = sys.executable if importlib.util.find_spec("lm_eval") else os.environ.get("WHET_LM_EVAL_PYTHON")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run, and a folder of task files over local rows."""
    if PYTHON is None:
        pytest.skip("lm-eval is not installed (here, or where WHET_LM_EVAL_PYTHON says)")
    folder = tmp_path_factory.mktemp("standard")
    tiny_evaluations.write_run(folder)
    (folder / "tasks").mkdir()
    rows = [
        {"question": f"{n} and {n + 1}?", "answer": str(2 * n + 1), "choices": ["1", str(2 * n + 1), "well"], "gold": 1}
        for n in range(NUM_ROWS)
    ]
    (folder / "tasks" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, text in TASKS.items():
        head = (
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/tasks/rows.jsonl}}}}\n"
            'test_split: test\ndoc_to_text: "{{question}}"\nmetadata: {version: 1.0}\n'
        )
        (folder / "tasks" / f"{name}.yaml").write_text(head + text.lstrip(), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))


def measure(place: Path, *, tasks: tuple[str, ...] = tuple(TASKS)) -> tuple[dict, list[str]]:
    """results.json, and what was said."""
    said: list[str] = []
    asked = LmEvalOptions(tasks=tasks, tasks_folder=place / "tasks", python=str(PYTHON))
    path = run_lm_eval(place / "run", asked, say=said.append, progress=lambda *_: None)
    return json.loads(path.read_text(encoding="utf-8")), said


def likelihood(folder: Path, question: str, answer: str) -> float:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    context = tokenizer(question)["input_ids"]
    ids = torch.tensor(tokenizer(f"{question}{answer}")["input_ids"])
    with torch.no_grad():
        log_p = model(ids[None]).logits[0].log_softmax(-1)
    return float(log_p[len(context) - 1 : -1].gather(1, ids[len(context) :, None]).sum())


@pytest.mark.timeout(600)
def test_lm_eval_measures_base_and_export_and_the_base_once(place, monkeypatch, tmp_path):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    found, _ = measure(place)
    assert found["tool"].startswith("lm-eval 0.4.")
    by_name = {(entry["task"], entry["metric"]): entry for entry in found["tasks"]}
    assert set(by_name) == {
        ("whet_choice", "acc"), ("whet_choice", "acc_norm"),
        ("whet_likelihood", "perplexity"), ("whet_likelihood", "acc"),
    }  # fmt: skip
    assert {entry["num_rows"] for entry in found["tasks"]} == {NUM_ROWS}
    choice = by_name["whet_choice", "acc"]
    assert choice["difference"]["estimate"] == pytest.approx(choice["tuned"]["value"] - choice["base"]["value"])
    assert choice["base"]["stderr"] is not None and 0 <= choice["p_value"] <= 1
    # a perplexity is no mean over rows: its value alone
    assert by_name["whet_likelihood", "perplexity"]["difference"] is None
    assert any("whet_likelihood, perplexity" in note for note in found["notes"])
    # the base's rows are those of the base's folder, computed here
    folder = place / "run" / "evaluations" / "lm-eval"
    [samples] = (folder / "base" / "whet_likelihood").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    for row in rows[:3]:
        expected = likelihood(place / "base", row["doc"]["question"], row["doc"]["answer"])
        assert row["perplexity"] == pytest.approx(expected, abs=1e-3)
    [of_tuned] = (folder / "tuned" / "whet_likelihood").rglob("samples_*.jsonl")
    tuned_rows = [json.loads(line) for line in of_tuned.read_text(encoding="utf-8").splitlines()]
    assert [row["perplexity"] for row in tuned_rows] != [row["perplexity"] for row in rows]
    # the export is gone, and nothing is measured twice
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    again, said = measure(place)
    assert again == found and sum("was measured before" in line for line in said) == 2 * len(TASKS)


def test_a_task_that_lm_eval_does_not_know_is_a_mistake_of_the_command(place, monkeypatch, tmp_path):
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RecipeError, match="no_such_task"):
        measure(place, tasks=("no_such_task",))
