"""`whet compare` prints what the stored answers say, and its gate has its own exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_reports import report, write_run

from whet.cli.compare import compare
from whet.errors import GateError, RecipeError, StorageError
from whet.evaluation import store
from whet.verdict import from_document


def store_answers(run: Path, dataset: str, model: str, num_correct: int, **changes: object) -> None:
    answers = report(model, [i < num_correct for i in range(50)], dataset=dataset, **changes)
    store.write_eval_report(run / "evaluations" / dataset, answers)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path)
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
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    with pytest.raises(StorageError, match="whet evaluate"):
        compare([tmp_path])


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    """Two recipes with three seeds each on one set: 10, 11 and 12 right of 50, and 40, 41 and 42."""
    runs = []
    for name, lr, num_correct in (("a", 1e-4, 10), ("b", 2e-4, 40)):
        for seed in range(3):
            folder = write_run(tmp_path / f"{name}{seed}", seed=seed, lr=lr)
            store_answers(folder, "sums", "base", 5)
            store_answers(folder, "sums", "tuned", num_correct + seed, weights=folder.name)
            runs.append(folder)
    return runs


def lead(printed: str) -> str:
    """The first sentence."""
    lines = printed.splitlines()
    return lines[lines.index("sums") + 1].strip()


def test_two_runs_are_compared_with_each_other_and_nothing_is_written(seeds: list[Path], capsys) -> None:
    compare([seeds[0], seeds[3]])
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split()[:4] == ["dataset", "rows", "a0", "b0"]
    assert lead(printed).startswith("b0 answered 40 of 50 right, a0 10: +60.0 points")
    assert not (seeds[3] / "evaluations" / "sums" / "comparison.json").exists()


def test_three_runs_are_seeds_of_one_recipe_against_their_base(seeds: list[Path], capsys) -> None:
    compare(seeds[3:])
    printed = capsys.readouterr().out
    assert lead(printed).startswith("answer_accuracy on 50 rows: tuned 82.0 %, base 10.0 %: +72.0 points")
    assert "tuned is the mean of 3 seeds, each by itself 80.0 %, 82.0 %, 84.0 %." in printed
    assert printed.splitlines()[-1] == "Better on sums."


def test_against_takes_the_place_of_base_for_one_run_or_several(seeds: list[Path], capsys) -> None:
    compare(seeds[3:], against=[str(run) for run in seeds[:3]])
    assert lead(capsys.readouterr().out).startswith("answer_accuracy on 50 rows: b0+b1+b2 82.0 %, a0+a1+a2 22.0 %")
    compare(seeds[3:5], against=["base"])
    printed = capsys.readouterr().out
    assert lead(printed).startswith("answer_accuracy on 50 rows: tuned 81.0 %, base 10.0 %")
    assert "Two seeds hardly know their own spread" in printed
    with pytest.raises(RecipeError, match="either `base` or run folders"):
        compare(seeds[3:], against=["base", str(seeds[0])])


def test_everything_printed_can_be_had_as_json(run: Path, tmp_path: Path, capsys) -> None:
    compare([run], json_file=tmp_path / "found.json")
    document = json.loads((tmp_path / "found.json").read_text())
    assert [from_document(each).dataset for each in document["comparisons"]] == ["products", "sums"]
    assert document["overall"]["sentence"] == capsys.readouterr().out.splitlines()[-1]
    assert document["overall"]["passes_gate"] is False
    compare([run], json_file=Path("-"))
    assert json.loads(capsys.readouterr().out) == document


def test_the_gate_is_shut_by_a_guard_that_lost_and_by_rows_seen_in_training(run: Path) -> None:
    store_answers(run, "talk", "base", 40, role="guard")
    store_answers(run, "talk", "tuned", 38, role="guard")
    store_answers(run, "products", "tuned", 30)
    compare([run], gate=True)
    store_answers(run, "talk", "tuned", 20, role="guard")
    with pytest.raises(GateError, match=r"talk: lost \(guard\)"):
        compare([run], gate=True)
    store_answers(run, "talk", "tuned", 40, role="guard")
    store_answers(run, "products", "tuned", 30, seen_in_training=tuple(f"row-{i}" for i in range(5, 28)))
    with pytest.raises(GateError, match="products: not distinguishable"):
        compare([run], gate=True)


def test_several_metrics_have_a_table_of_their_own_and_guards_are_marked(run: Path, capsys) -> None:
    for model, shift in (("base", 0.0), ("tuned", 0.25)):
        scores = {"token_f1": tuple([shift] * 50), "answer_length": tuple(4.0 + shift + i for i in range(50))}
        store_answers(run, "talk", model, 10, role="guard", scores=scores)
    compare([run])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("talk (guard)  50    0.0 %   25.0 %  +25.0 points") for line in lines)
    (length,) = [line for line in lines if line.startswith("answer_length")]
    assert length.split() == [
        "answer_length", "50", "28.5", "words", "28.75", "words", "+0.25", "words", "+0.25", "to", "+0.25", "0.0001",
        "-", "-", "-",
    ]  # fmt: skip


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
