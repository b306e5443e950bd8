"""Two models under a benchmark tool: a difference is given only where it is one, and equals a direct computation."""

import json
import random
import statistics
from dataclasses import replace

import pytest

from whet.evaluation.standard.outcome import Measured, RowScore, describe, join, write_results
from whet.evaluation.statistics import mcnemar_p


def measured(scores: list[float], *, asked: str = "same", **others) -> Measured:
    rows = {str(i): RowScore(score=s, asked=f"{asked} {i}") for i, s in enumerate(scores)}
    fields = {"task": "sums", "metric": "acc", "unit": "share of rows", "num_rows": len(scores), "stderr": 0.1}
    return Measured(**{**fields, "value": sum(scores) / len(scores), "rows": rows, **others})


BASE, TUNED = [0.0] * 12 + [1.0] * 3, [1.0] * 10 + [0.0] * 3 + [1.0] * 2


def test_base_and_tuned_are_paired_by_row():
    [entry], notes = join([measured(BASE)], [measured(TUNED)])
    assert notes == []
    assert entry["difference"]["estimate"] == pytest.approx(9 / 15)
    assert entry["p_value"] == pytest.approx(mcnemar_p(10, 1))
    assert entry["difference"]["low"] < 9 / 15 < entry["difference"]["high"]
    assert (entry["base"], entry["tuned"]) == ({"value": 0.2, "stderr": 0.1}, {"value": 0.8, "stderr": 0.1})
    assert "difference +0.6" in describe(entry) and "15 rows" in describe(entry)


def test_the_order_of_the_tools_rows_does_not_matter():
    draw = random.Random(3)
    base, tuned = (measured([draw.random() for _ in range(30)]) for _ in range(2))
    items = list(tuned.rows.items())
    draw.shuffle(items)
    assert join([base], [replace(tuned, rows=dict(items))]) == join([base], [tuned])
    differences = [tuned.rows[i].score - base.rows[i].score for i in base.rows]
    [entry], _ = join([base], [tuned])
    half = 2.045 * statistics.stdev(differences) / 30**0.5
    assert entry["difference"]["high"] - entry["difference"]["low"] == pytest.approx(2 * half, rel=0.2)


@pytest.mark.parametrize(
    ("tuned", "why"),
    [
        (measured(TUNED, asked="other"), "not asked the same"),
        (measured(TUNED[:-1]), "other rows"),
        (measured(TUNED, rows={}), "no score per row"),
        (measured(TUNED, value=3.7), "not the mean"),
    ],
)
def test_what_cannot_be_paired_has_no_difference_and_a_reason(tuned, why):
    [entry], [note] = join([measured(BASE)], [tuned])
    assert entry["difference"] is None and entry["p_value"] is None
    assert why in note and "sums, acc" in note
    assert entry["tuned"]["value"] == tuned.value
    assert "difference" not in describe(entry)


def test_a_metric_that_only_one_model_has_is_named():
    entries, [note] = join([measured(BASE, metric="f1")], [measured(TUNED)])
    assert entries == [] and "sums, f1: measured for the base only" in note


def test_the_file_is_json_in_the_stated_shape(tmp_path):
    entries, notes = join([measured(BASE)], [measured(TUNED, stderr=None)])
    path = write_results(tmp_path / "lm-eval", entries, tool="lm-eval 0.4.13", notes=notes)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "results.json" and set(document) == {"tasks", "tool", "notes"}
    assert set(document["tasks"][0]) == {
        "task", "metric", "unit", "num_rows", "base", "tuned", "difference", "p_value",
    }  # fmt: skip
    assert document["tasks"][0]["tuned"]["stderr"] is None
