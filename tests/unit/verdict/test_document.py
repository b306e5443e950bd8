"""A comparison survives JSON; what is malformed is named."""

import json
from dataclasses import replace

import pytest
from tiny_reports import pair

from whet.evaluation.compare import compare
from whet.types import Comparison
from whet.verdict import from_document, to_document


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    base, tuned = pair(wins=9, losses=1, both=5, neither=5)
    names = tuple("ab"[i % 2] for i in range(20))
    reports = [
        replace(
            report,
            scores={
                "answer_accuracy": tuple(float(j.is_correct) for j in report.judgements),
                "answer_length": tuple(float(i) for i in range(20)),
            },
            categories=names,
            seen_in_training=("row-3",),
            role="guard",
        )
        for report in (base, tuned)
    ]
    return compare(*reports, seed=1)


def test_a_comparison_comes_back_equal(comparison: Comparison) -> None:
    assert comparison.metrics and comparison.categories and comparison.gains and comparison.seen_in_training
    assert from_document(json.loads(json.dumps(to_document(comparison)))) == comparison


def test_a_file_of_an_earlier_version_is_read(comparison: Comparison) -> None:
    old = to_document(comparison)
    for name in ("role", "primary", "metrics", "categories", "gains", "setbacks", "seen_in_training", "base_name"):
        del old[name]
    found = from_document(old)
    assert (found.role, found.primary, found.metrics, found.base_name) == ("main", "answer_accuracy", (), "base")
    assert found.difference == comparison.difference


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"verdict": "amazing"}, "`verdict`"),
        ({"role": "boss"}, "`role`"),
        ({"p_value": "small"}, "`p_value`"),
        ({"num_rows": 1.5}, "`num_rows`"),
        ({"difference": {"low": 1}}, "`difference.estimate`"),
        ({"difference": {"estimate": float("nan"), "low": 0, "high": 0}}, "`difference.estimate`: not a number"),
        ({"p_value": 1e301}, "`p_value`: too large"),
        ({"metrics": [{"name": "x"}]}, "`metrics.0.unit`"),
        ({"gains": [{"example_id": "r", "base": 0.0, "tuned": float("inf")}]}, "`gains.0.tuned`"),
    ],
)
def test_a_malformed_field_is_named(comparison: Comparison, change: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        from_document(to_document(comparison) | change)
    with pytest.raises(ValueError, match="object"):
        from_document([])
