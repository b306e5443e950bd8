"""NeMo Evaluator itself asks two models of a server on this machine, on a benchmark of our own."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import loopback_endpoint
import pytest

from whet.errors import HubError
from whet.evaluation.standard.nemo_evaluator import KEY_VARIABLE, NemoOptions, run_nemo_evaluator

pytestmark = pytest.mark.slow

NUM_ROWS = 8
PYTHON = sys.executable if importlib.util.find_spec("nemo_evaluator") else os.environ.get("WHET_NEMO_PYTHON")
BENCHMARK = """
from nemo_evaluator.environments.custom import benchmark, scorer
from nemo_evaluator.scoring import exact_match

@benchmark(name="sums", dataset={rows!r}, prompt="{{question}}", target_field="answer")
@scorer
def score(sample):
    return exact_match(sample)
"""


@pytest.fixture(autouse=True)
def _needs_nemo_evaluator(monkeypatch, tmp_path):
    if PYTHON is None:
        pytest.skip("nemo-evaluator is not installed (here, or where WHET_NEMO_PYTHON says)")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(KEY_VARIABLE, loopback_endpoint.KEY)


def measure(place: Path, endpoint: loopback_endpoint.Endpoint) -> dict:
    rows = place / "rows.jsonl"
    lines = [json.dumps({"question": f"{n} and {n + 1}?", "answer": str(2 * n + 1)}) for n in range(NUM_ROWS)]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (place / "sums.py").write_text(BENCHMARK.format(rows=str(rows)), encoding="utf-8")
    options = NemoOptions(
        tasks=(str(place / "sums.py"),), endpoint=endpoint.address, models=loopback_endpoint.MODELS, python=str(PYTHON)
    )
    path = run_nemo_evaluator(place / "run", options, say=lambda _: None, progress=lambda *_: None)
    return json.loads(path.read_text(encoding="utf-8"))


def test_nemo_evaluator_asks_both_models_greedily_and_its_rows_are_paired(tmp_path):
    with loopback_endpoint.serve() as endpoint:
        endpoint.wants_key = True
        found = measure(tmp_path, endpoint)
    [entry] = found["tasks"]
    right = sum(n % 3 == 0 for n in range(NUM_ROWS)) / NUM_ROWS
    assert (entry["task"], entry["metric"], entry["num_rows"]) == ("sums", "pass@1", NUM_ROWS)
    assert (entry["base"]["value"], entry["tuned"]["value"]) == (right, 1.0)
    assert entry["base"]["stderr"] == pytest.approx((right * (1 - right) / (NUM_ROWS - 1)) ** 0.5)
    assert entry["difference"]["estimate"] == pytest.approx(1 - right)
    assert len(endpoint.asked) == 2 * NUM_ROWS
    assert {each["temperature"] for each in endpoint.asked} == {0.0}
    assert {each["key"] for each in endpoint.asked} == {f"Bearer {loopback_endpoint.KEY}"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if loopback_endpoint.KEY.encode() in path.read_bytes()]


def test_a_server_that_fails_gives_no_figures(tmp_path):
    with loopback_endpoint.serve() as endpoint:
        endpoint.is_broken = True
        with pytest.raises(HubError, match="was not answered"):
            measure(tmp_path, endpoint)
    assert not list((tmp_path / "run").rglob("results.json"))
