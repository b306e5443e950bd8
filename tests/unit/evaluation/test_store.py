"""Reports and comparisons survive the disk; a damaged file is refused with its line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from whet.errors import StorageError
from whet.evaluation import store
from whet.types import Comparison, EvalReport, Generation, Interval, Judgement

NASTY = "line\u2028sep \ud800 \x00 \u202e </script> \U0001f600 \r\n"


def report(model: str = "base") -> EvalReport:
    return EvalReport(
        model=model,
        dataset="sums",
        decoding="greedy",
        rows_fingerprint="abc",
        generations=tuple(
            Generation(
                example_id=f"r{i}", prompt=NASTY, text=NASTY * i, num_new_tokens=i, stopped="length", seconds=0.5
            )
            for i in range(3)
        ),
        judgements=tuple(
            Judgement(example_id=f"r{i}", extracted=NASTY, golds=("1", "one"), is_correct=i == 1, has_format=False)
            for i in range(3)
        ),
        seconds=1.5,
        weights="w",
        code="c",
        num_rows_of_set=5,
    )


def comparison() -> Comparison:
    interval = Interval(estimate=0.1, low=-0.05, high=0.3, level=0.95)
    return Comparison(
        dataset="sums",
        num_rows=3,
        base_accuracy=interval,
        tuned_accuracy=interval,
        difference=interval,
        wins=1,
        losses=0,
        p_value=1.0,
        verdict="not distinguishable",
        base_format_rate=0.0,
        tuned_format_rate=1.0,
        base_stop_rate=1.0,
        tuned_stop_rate=1.0,
        sentences=("one.", "two."),
    )


@pytest.mark.parametrize("model", ["base", "demo"])
def test_a_report_comes_back_equal(tmp_path: Path, model: str) -> None:
    store.write_eval_report(tmp_path, report(model))
    assert store.read_eval_report(tmp_path, "base" if model == "base" else "tuned") == report(model)


def test_a_comparison_comes_back_equal_and_is_not_rewritten(tmp_path: Path) -> None:
    store.write_comparison(tmp_path, comparison())
    written = (tmp_path / "comparison.json").stat().st_ino
    store.write_comparison(tmp_path, comparison())
    assert (tmp_path / "comparison.json").stat().st_ino == written
    assert store.read_comparison(tmp_path) == comparison()
    store.write_comparison(tmp_path, replace(comparison(), wins=2))
    assert store.read_comparison(tmp_path).wins == 2


def test_a_comparison_of_replaced_rows_is_removed(tmp_path: Path) -> None:
    store.write_comparison(tmp_path, comparison())
    store.write_eval_report(tmp_path, report())
    assert not (tmp_path / "comparison.json").exists()


def test_datasets_are_listed_by_name(tmp_path: Path) -> None:
    assert store.list_datasets(tmp_path) == []
    for name in ("sums", "products"):
        store.write_eval_report(tmp_path / "evaluations" / name, report())
        store.write_eval_report(tmp_path / "evaluations" / name, report("demo"))
    (tmp_path / "evaluations" / "empty").mkdir()
    assert store.list_datasets(tmp_path) == ["products", "sums"]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda row: row[:-20], r"base.jsonl:2: not JSON"),
        (lambda row: "[1]", r"base.jsonl:2: a JSON object is expected"),
        (lambda row: "", r"base.jsonl:2: not JSON"),
        (lambda row: row.replace('"golds"', '"gold"'), r"base.jsonl:2: `golds` is missing"),
        (lambda row: row.replace("true", '"true"'), r"base.jsonl:2: `is_correct` has the wrong type"),
        (lambda row: row.replace('"num_new_tokens": 1', '"num_new_tokens": true'), r"jsonl:2: `num_new_tokens`"),
        (lambda row: row.replace('"num_new_tokens": 1', '"num_new_tokens": NaN'), r"base.jsonl:2: NaN is not JSON"),
        (lambda row: row.replace('"length"', '"limit"'), r"base.jsonl:2: stopped"),
        (lambda row: "[" * 100_000, r"base.jsonl:2: not JSON"),
    ],
)
def test_a_damaged_row_is_refused_with_its_line(tmp_path: Path, damage, named: str) -> None:
    store.write_eval_report(tmp_path, report())
    rows = (tmp_path / "base.jsonl").read_text().splitlines()
    rows[1] = damage(rows[1])
    (tmp_path / "base.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(StorageError, match=named):
        store.read_eval_report(tmp_path, "base")


def test_torn_missing_and_short_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"base\.summary\.json: missing"):
        store.read_eval_report(tmp_path, "base")
    store.write_eval_report(tmp_path, report())
    rows_path = tmp_path / "base.jsonl"
    whole = rows_path.read_text()
    rows_path.write_text(whole[:-1])
    with pytest.raises(StorageError, match=r"base\.jsonl:3: the last line is torn"):
        store.read_eval_report(tmp_path, "base")
    rows_path.write_text("".join(whole.splitlines(keepends=True)[:2]))
    with pytest.raises(StorageError, match=r"2 rows, but base\.summary\.json says 3"):
        store.read_eval_report(tmp_path, "base")
    rows_path.write_bytes(b"\xff\n")
    with pytest.raises(StorageError, match="not UTF-8 at byte 0"):
        store.read_eval_report(tmp_path, "base")


def test_a_report_that_is_being_replaced_is_not_taken_for_whole(tmp_path: Path, monkeypatch) -> None:
    store.write_eval_report(tmp_path, report())

    def no_space(path: Path, text: str) -> None:
        raise StorageError("disk full", where=str(path))

    monkeypatch.setattr(store.atomic, "write_text", no_space)
    with pytest.raises(StorageError, match="disk full"):
        store.write_eval_report(tmp_path, report())
    with pytest.raises(StorageError, match=r"summary\.json: missing"):
        store.read_eval_report(tmp_path, "base")


def test_a_comparison_with_an_unknown_verdict_is_refused(tmp_path: Path) -> None:
    store.write_comparison(tmp_path, comparison())
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"verdict": "amazing"}))
    with pytest.raises(StorageError, match="`verdict`: Input should be 'better', 'worse'"):
        store.read_comparison(tmp_path)


def test_no_time_stands_in_the_rows(tmp_path: Path) -> None:
    one = report()
    slower = replace(one, seconds=90.0, generations=tuple(replace(g, seconds=30.0) for g in one.generations))
    texts = []
    for each in (one, slower):
        store.write_eval_report(tmp_path, each)
        texts.append((tmp_path / "base.jsonl").read_bytes())
        assert store.read_eval_report(tmp_path, "base") == each
    assert texts[0] == texts[1]


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """With a time in every row, without code version and size of the set."""
    store.write_eval_report(tmp_path, report())
    rows = [json.loads(line) | {"seconds": 0.1} for line in (tmp_path / "base.jsonl").read_text().splitlines()]
    (tmp_path / "base.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = json.loads((tmp_path / "base.summary.json").read_text())
    del summary["code"], summary["num_rows_of_set"]
    (tmp_path / "base.summary.json").write_text(json.dumps(summary))
    assert store.read_eval_report(tmp_path, "base") == replace(report(), code="", num_rows_of_set=0)


def scored() -> EvalReport:
    return replace(
        report("tuned"),
        scores={"loss": (0.5, None, 1e-9), "seconds_per_example": (0.5, 0.5, 0.5), "stop_rate": (0.0, 1.0, 1.0)},
        figures={"corpus_perplexity": 3.25},
        categories=("a", "", "b"),
        seen_in_training=("r1",),
        role="guard",
    )


def test_scores_categories_role_and_seen_rows_come_back_in_their_order(tmp_path: Path) -> None:
    store.write_eval_report(tmp_path, scored())
    found = store.read_eval_report(tmp_path, "tuned")
    assert found == scored()
    assert list(found.scores) == ["loss", "seconds_per_example", "stop_rate"]


def test_times_stand_in_the_summary_alone_and_means_carry_their_unit(tmp_path: Path) -> None:
    store.write_eval_report(tmp_path, scored())
    rows = [json.loads(line) for line in (tmp_path / "tuned.jsonl").read_text().split("\n")[:-1]]
    assert [row["scores"] for row in rows] == [
        {"loss": 0.5, "stop_rate": 0.0}, {"loss": None, "stop_rate": 1.0}, {"loss": 1e-9, "stop_rate": 1.0}
    ]  # fmt: skip
    slower = replace(
        scored(),
        generations=tuple(replace(generation, seconds=9.0) for generation in scored().generations),
        scores=scored().scores | {"seconds_per_example": (9.0, 9.0, 9.0)},
    )
    lines = (tmp_path / "tuned.jsonl").read_bytes()
    store.write_eval_report(tmp_path, slower)
    assert (tmp_path / "tuned.jsonl").read_bytes() == lines
    summary = json.loads((tmp_path / "tuned.summary.json").read_text())
    assert summary["metrics"]["loss"] == {"mean": 0.25 + 5e-10, "unit": "nats per token", "num_rows": 2}
    assert summary["row_seconds"] == [9.0, 9.0, 9.0]
    assert '\n  "row_seconds": [9.0, 9.0, 9.0]\n' in (tmp_path / "tuned.summary.json").read_text()


def test_files_of_an_earlier_version_are_read_without_scores(tmp_path: Path) -> None:
    store.write_eval_report(tmp_path, report())
    path = tmp_path / "base.summary.json"
    summary = json.loads(path.read_text())
    for name in ("role", "seen_in_training", "figures", "metrics", "row_seconds"):
        del summary[name]
    path.write_text(json.dumps(summary))
    # each row's share of the time is all that such a file says
    assert store.read_eval_report(tmp_path, "base") == report()


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("tuned.summary.json", {"role": "boss"}, "role must be one of main, other, guard"),
        ("tuned.summary.json", {"row_seconds": [1.0]}, "`row_seconds` must hold a number for each row"),
        ("tuned.summary.json", {"figures": {"corpus_bleu": "high"}}, "figures: numbers or null are expected"),
        ("tuned.jsonl", {"scores": {"loss": "low"}}, r"tuned.jsonl:1 scores: numbers or null are expected"),
        ("tuned.jsonl", {"category": 3}, r"tuned.jsonl:1: `category` has the wrong type"),
    ],
)
def test_a_damaged_score_role_or_time_is_refused_with_its_place(tmp_path, name, change, what) -> None:
    store.write_eval_report(tmp_path, scored())
    first, rest = (tmp_path / name).read_text(), ""
    if name.endswith("l"):
        first, _, rest = first.partition("\n")
    (tmp_path / name).write_text(json.dumps(json.loads(first) | change) + "\n" + rest)
    with pytest.raises(StorageError, match=what):
        store.read_eval_report(tmp_path, "tuned")
