"""What was foreseen stands beside what was measured; nothing is invented where nothing is known."""

from __future__ import annotations

from whet.estimate.memory import Job, Pass
from whet.estimate.scale import memory_parts
from whet.report.estimate_section import PARTS, estimate_rows

SUMMARY = {
    "predicted_memory_bytes": 2_000_000_000,
    "predicted_memory_parts": {"process": 490_000_000, "weights": 1_000_000_000, "gradients": 0, "slack": 510_000_000},
    "peak_memory_bytes": 1_900_000_000,
    "planned_seconds_per_step": 2.0,
    "seconds": 50.0,
    "steps": 20,
}


def test_parts_and_the_whole_beside_what_was_measured():
    assert estimate_rows(SUMMARY) == [
        ["process", "490 MB", "", ""],
        ["weights", "1.00 GB", "", ""],
        ["slack of the allocator", "510 MB", "", ""],
        ["peak memory", "2.00 GB", "1.90 GB", "1.05"],
        ["a step", "2 s", "2.5 s", "0.80"],
    ]


def test_where_reading_the_model_was_the_peak_that_is_said():
    rows = estimate_rows(SUMMARY | {"predicted_memory_bytes": 2_100_000_000})
    assert rows[3] == ["reading the model took more", "2.10 GB", "", ""]


def test_a_run_without_a_prediction_or_with_damaged_values_has_no_rows():
    assert estimate_rows({}) == []
    assert estimate_rows({"predicted_memory_bytes": "many", "predicted_memory_parts": 3}) == []
    assert estimate_rows({"predicted_memory_bytes": 1e9, "peak_memory_bytes": None}) == [
        ["peak memory", "1.00 GB", "-", "-"]
    ]


def test_every_part_of_a_prediction_has_a_name():
    job = Job(
        num_layers=2, hidden=64, intermediate=96, query_size=64, key_size=32, num_heads=4, vocab=500, num_base=10**5,
        num_trainable=10**5, trains_all=True, is_fused=False, narrow_values=0, compute_bytes=2, is_tied=True,
        has_snapshot=True,
    )  # fmt: skip
    for num_shards in (1, 2):
        assert set(memory_parts(job, Pass(tokens=9, taught=5, probabilities=0), "none", num_shards)) <= set(PARTS)
