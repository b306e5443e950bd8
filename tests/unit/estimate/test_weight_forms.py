"""Bytes per weight of the ways to train all of them, for the shape of Llama-3.1-8B."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whet.estimate.memory import Job, Pass, predict

NUM = 8_030_261_248
WIDE = Job(
    num_layers=32, hidden=4096, intermediate=14_336, query_size=4096, key_size=1024, num_heads=32, vocab=128_256,
    num_base=NUM, num_trainable=NUM, trains_all=True, is_fused=False, narrow_values=0, compute_bytes=2, is_tied=False,
    process_bytes=0,
)  # fmt: skip
MASTERS = replace(WIDE, is_widened=False, master_bytes=4)
EIGHT_BIT = replace(WIDE, is_widened=False, moment_bytes=2 + 2 * 4 / 256)
PASS = Pass(tokens=8192, taught=4096, probabilities=0)


@pytest.mark.parametrize(("job", "bytes_per_weight"), [(WIDE, 18), (MASTERS, 16), (EIGHT_BIT, 6.03125)])
def test_weights_gradients_and_moments_take_what_the_page_says(job, bytes_per_weight):
    parts = predict(job, PASS, "full")
    assert parts["weights"] + parts["gradients"] + parts["moments"] == pytest.approx(bytes_per_weight * NUM, rel=1e-6)


def test_what_lies_between_layers_is_narrow_without_autocast():
    assert predict(MASTERS, PASS, "full")["activations"] == predict(WIDE, PASS, "full")["activations"] / 2
