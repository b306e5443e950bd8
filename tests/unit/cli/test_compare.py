"""`whet compare` prints what the stored answers say, and its gate has its own exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whet.cli.compare import compare
from whet.errors import GateError, RecipeError, StorageError
from whet.evaluation import store
from whet.types import EvalReport, Generation, Judgement

RECIPE = "version: 1\nname: demo\noutput: out\nseed: 7\ndata:\n  train:\n    - source: rows.jsonl\n"


def store_answers(run: Path, dataset: str, model: str, num_correct: int, decoding: str = "greedy") -> None:
    report = EvalReport(
        model=model,
        dataset=dataset,
        decoding=decoding,
        rows_fingerprint="f",
        generations=tuple(
            Generation(example_id=f"r{i}", prompt="p", text="t", num_new_tokens=1, stopped="stop_token")
            for i in range(50)
        ),
        judgements=tuple(
            Judgement(example_id=f"r{i}", extracted="1", golds=("1",), is_correct=i < num_correct, has_format=True)
            for i in range(50)
        ),
        seconds=1.0,
    )
    store.write_eval_report(run / "evaluations" / dataset, report)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for dataset, num_correct in (("sums", 30), ("products", 6)):
        store_answers(tmp_path, dataset, "base", 5)
        store_answers(tmp_path, dataset, "tuned", num_correct)
    return tmp_path


def test_table_and_sentences_name_every_dataset(run: Path, capsys: pytest.CaptureFixture) -> None:
    compare([run])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["dataset", "rows"]
    assert lines[1].startswith("products  50    10.0 %  12.0 %  +2.0 points")
    assert lines[1].endswith("not distinguishable")
    assert lines[2].startswith("sums      50    10.0 %  60.0 %  +50.0 points")
    assert lines[2].endswith("better")
    assert any("tuned answered 30 of 50 right, base 5" in line for line in lines)
    assert store.read_comparison(run / "evaluations" / "sums").verdict == "better"


def test_the_gate_passes_only_when_every_chosen_dataset_is_better(run: Path) -> None:
    compare([run], dataset="sums", gate=True)
    with pytest.raises(GateError, match="products: not distinguishable") as caught:
        compare([run], gate=True)
    assert caught.value.exit_code == 8


@pytest.mark.parametrize("name", ["sum", "../sums", "/etc"])
def test_an_unknown_dataset_is_refused_with_the_known_ones(run: Path, name: str) -> None:
    with pytest.raises(StorageError, match="products, sums"):
        compare([run], dataset=name)


def test_answers_under_other_decoding_are_refused(run: Path) -> None:
    store_answers(run, "sums", "tuned", 30, decoding="sampled")
    with pytest.raises(RecipeError, match="decoding differs"):
        compare([run], dataset="sums")


def test_a_run_without_answers_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="whet evaluate"):
        compare([tmp_path])


def test_compare_and_report_need_no_torch_and_exit_by_the_gate(run: Path) -> None:
    script = (
        "import sys; from whet.cli.compare import compare; from whet.cli.report import report; "
        "from pathlib import Path; run = Path(sys.argv[1]); compare([run]); report(run); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "tuned answered 30 of 50 right" in (run / "report.html").read_text()
    assert json.loads((run / "evaluations" / "sums" / "comparison.json").read_text())["verdict"] == "better"
