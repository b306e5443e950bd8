"""NeMo Evaluator is asked of two served models, and a row that was not answered is no wrong answer (a fake plays it).

The fake writes the files of nemo-evaluator 0.3.0; tests/integration/test_nemo_evaluator.py runs the real one.
"""

import json
import stat
import sys
from pathlib import Path

import loopback_endpoint
import pytest

from whet.errors import DataError, HubError, RecipeError, WhetError
from whet.evaluation.standard.nemo_evaluator import KEY_VARIABLE, NemoOptions, check_nemo_evaluator, run_nemo_evaluator
from whet.evaluation.standard.nemo_output import read_output
from whet.evaluation.statistics import mcnemar_p

FAKE = """#!{python}
import json, os, pathlib, sys
behaviour = json.loads((pathlib.Path(__file__).parent / "behaviour.json").read_text())
if sys.argv[1] == "-c":
    print(json.dumps(behaviour["versions"]))
    sys.exit(0)
assert sys.argv[1:5] == ["-m", "nemo_evaluator.cli.main", "eval", "run"], sys.argv
text = pathlib.Path(sys.argv[5]).read_text()
assert os.environ["{variable}"] not in text, "the key is in the file"
config = json.loads(text)
print("INFO observability.progress: progress: 3/6 (50.0%) | pass@1=0.0%", file=sys.stderr)
print("key", os.environ["{variable}"], behaviour.get("fails", ""))
if behaviour.get("fails"):
    sys.exit(1)
service = config["services"]["model"]
for bench in config["benchmarks"]:
    name = bench["name"].rpartition("/")[2].removesuffix(".py")
    out = pathlib.Path(config["output"]["dir"]) / name
    out.mkdir()
    rows = []
    for i in reversed(range(bench.get("max_problems", 7))):
        reward = float(service["model"] == "tuned" or i % 3 == 0)
        row = dict(problem_idx=i, repeat=0, reward=reward, prompt=f"{{i}}?", expected_answer=str(i))
        if behaviour.get("unanswered") == i:
            row.update(reward=0.0, scoring_details=dict(error="HTTP 500", error_category="infra_error"))
        rows.append(row)
    (out / "results.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
    mean = sum(row["reward"] for row in rows) / len(rows)
    deviation = (len(rows) / (len(rows) - 1) * mean * (1 - mean)) ** 0.5
    scores = {{"pass@1": {{"value": round(mean, 4)}}, "summary": {{"mean": mean, "std": deviation, "n": len(rows)}}}}
    document = {{"benchmark": {{"name": name, "samples": len(rows), "scores": scores}}}}
    (out / "eval-1-x.json").write_text(json.dumps(document))
"""


@pytest.fixture
def endpoint():
    with loopback_endpoint.serve() as running:
        yield running


@pytest.fixture
def options(tmp_path, endpoint):
    def make(behaviour: dict | None = None, **others) -> NemoOptions:
        fields = {"versions": {"nemo-evaluator": "0.3.0"}, **(behaviour or {})}
        (tmp_path / "behaviour.json").write_text(json.dumps(fields), encoding="utf-8")
        python = tmp_path / "python"
        python.write_text(FAKE.format(python=sys.executable, variable=KEY_VARIABLE), encoding="utf-8")
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        defaults = {"tasks": ("gsm8k",), "endpoint": endpoint.address, "models": loopback_endpoint.MODELS}
        return NemoOptions(**{**defaults, "python": str(python), **others})

    return make


def measure(run: Path, asked: NemoOptions) -> tuple[dict, list]:
    told = []
    path = run_nemo_evaluator(run, asked, say=lambda _: None, progress=lambda *figures: told.append(figures))
    return json.loads(path.read_text(encoding="utf-8")), told


def test_both_models_are_measured_and_paired_by_problem(tmp_path, options, endpoint):
    found, told = measure(tmp_path / "run", options(tasks=("gsm8k", "mmlu")))
    assert found["tool"] == "nemo-evaluator 0.3.0"
    assert [(entry["task"], entry["metric"], entry["num_rows"]) for entry in found["tasks"]] == [
        ("gsm8k", "pass@1", 7), ("mmlu", "pass@1", 7),
    ]  # fmt: skip
    entry = found["tasks"][0]
    # the value is not the rounded one, and the standard error that of a share
    assert entry["base"]["value"] == 3 / 7 and entry["tuned"]["value"] == 1.0
    assert entry["base"]["stderr"] == pytest.approx((3 / 7 * 4 / 7 / 6) ** 0.5)
    assert entry["difference"]["estimate"] == pytest.approx(4 / 7)
    assert entry["p_value"] == pytest.approx(mcnemar_p(4, 0))
    assert any(endpoint.address in note for note in found["notes"])
    assert told == [("NeMo Evaluator: base", 3, 6), ("NeMo Evaluator: tuned", 3, 6)]


def test_the_configuration_names_model_address_and_greedy_decoding_and_no_key(tmp_path, options, monkeypatch, endpoint):
    monkeypatch.setenv(KEY_VARIABLE, loopback_endpoint.KEY)
    endpoint.wants_key = True
    measure(tmp_path / "run", options(limit=4, tasks=("bench.py",), endpoint=f"{endpoint.address}/chat/completions"))
    folder = tmp_path / "run" / "evaluations" / "nemo-evaluator"
    config = json.loads((folder / "tuned" / "config.yaml").read_text(encoding="utf-8"))
    service = config["services"]["model"]
    assert service["url"] == f"{endpoint.address}/chat/completions" and service["model"] == "tuned"
    assert service["generation"] == {"temperature": 0.0} and service["api_key"] == f"${{{KEY_VARIABLE}}}"
    [bench] = config["benchmarks"]
    assert Path(bench["name"]).is_absolute() and bench["max_problems"] == 4
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if loopback_endpoint.KEY in path.read_text(encoding="utf-8")]


def test_a_row_that_was_not_answered_stops_the_evaluation(tmp_path, options):
    with pytest.raises(HubError, match=r"row 2 was not answered \(HTTP 500\)"):
        measure(tmp_path / "run", options({"unanswered": 2}))
    folder = tmp_path / "run" / "evaluations" / "nemo-evaluator"
    assert not (folder / "results.json").exists() and not (folder / "base").exists()


def test_a_failure_is_told_with_the_last_lines(tmp_path, options):
    with pytest.raises(RecipeError, match="Unknown environment"):
        measure(tmp_path / "run", options({"fails": "No such task: Unknown environment 'gsm9k'"}))
    with pytest.raises(WhetError, match="something else"):
        measure(tmp_path / "run", options({"fails": "something else"}))


def test_what_cannot_work_is_refused_before_anything_is_asked(options, endpoint):
    for others, why in (
        ({"tasks": ()}, "no benchmark is named"),
        ({"models": ("tuned",)}, "two names are needed"),
        ({"models": ("tuned", "tuned")}, "the same model"),
        ({"models": ("base", "tuned2")}, "no model 'tuned2' is served"),
        ({"endpoint": "127.0.0.1:8000"}, "no address of a server"),
        ({"endpoint": "file:///etc/passwd"}, "no address of a server"),
        ({"endpoint": "http://user:key@127.0.0.1/v1"}, "no address of a server"),
        ({"python": "/no/such/python"}, "no Python that can be run"),
    ):
        with pytest.raises(RecipeError, match=why):
            check_nemo_evaluator(options(**others))
    with pytest.raises(RecipeError, match=r"not installed(.|\n)*whet\[nemo\]"):
        check_nemo_evaluator(options({"versions": {}}))
    with pytest.raises(RecipeError, match="too old"):
        check_nemo_evaluator(options({"versions": {"nemo-evaluator": "0.2.9"}}))
    with pytest.raises(HubError, match="no server answers"):
        check_nemo_evaluator(options(endpoint="http://127.0.0.1:9/v1"))
    endpoint.wants_key = True
    with pytest.raises(HubError, match=rf"refuses the key(.|\n)*{KEY_VARIABLE}"):
        check_nemo_evaluator(options())
    assert not endpoint.asked


def test_a_server_that_lists_no_models_may_still_answer(options, endpoint):
    endpoint.lists_models = False
    assert check_nemo_evaluator(options()) == {"nemo-evaluator": "0.3.0"}


def test_the_same_name_at_two_addresses_is_two_models(options, endpoint):
    with loopback_endpoint.serve() as other:
        check_nemo_evaluator(options(models=("tuned", "tuned"), base_endpoint=other.address))


@pytest.mark.parametrize(
    ("text", "why"), [("", "not JSON"), ("[]", "object"), ("{}", "no scores"), ('{"benchmark": {"name": 1}}', "scores")]
)
def test_results_of_another_form_are_refused(tmp_path, text, why):
    with pytest.raises(DataError, match="left no results"):
        read_output(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "eval-1.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=why):
        read_output(tmp_path)


def test_a_harness_without_rows_gives_its_values_alone(tmp_path):
    (tmp_path / "x").mkdir()
    scores = {"accuracy": {"value": 0.25}, "runtime": {"total_steps": 4}, "odd": 3}
    document = {"benchmark": {"name": "x", "samples": 4, "scores": scores}}
    (tmp_path / "x" / "eval-1.json").write_text(json.dumps(document), encoding="utf-8")
    [one] = read_output(tmp_path)
    assert (one.metric, one.value, one.stderr, one.rows, one.num_rows) == ("accuracy", 0.25, None, {}, 4)
