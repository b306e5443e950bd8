"""Every part of a prediction has its formula in words, with the numbers that went in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whet.estimate.memory import LEVELS, Job, Pass
from whet.estimate.memory_words import formula
from whet.estimate.scale import memory_parts

SMOLLM2 = Job(
    num_layers=30, hidden=576, intermediate=1536, query_size=576, key_size=192, num_heads=9, vocab=49_152,
    num_base=134_515_008, num_trainable=2_442_240, trains_all=False, is_fused=True, narrow_values=7 * 8,
    compute_bytes=2, is_tied=True, has_snapshot=True,
)  # fmt: skip
ALL = replace(SMOLLM2, num_trainable=SMOLLM2.num_base, trains_all=True, is_fused=False, narrow_values=0)
PASS = Pass(tokens=1024, taught=600, probabilities=0)


@pytest.mark.parametrize("job", [SMOLLM2, ALL, replace(ALL, device="cuda"), replace(SMOLLM2, base_bytes=80_000_000)])
@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize("recompute", LEVELS)
def test_every_part_has_words(job, num_shards, recompute):
    for part in memory_parts(job, PASS, recompute, num_shards):
        assert formula(part, job, PASS, recompute, num_shards=num_shards)


def test_the_words_hold_the_numbers():
    assert "134,515,008 frozen weights x 2 bytes" in formula("weights", SMOLLM2, PASS, "none")
    assert "2,442,240 weights that train x 4 bytes" in formula("gradients", SMOLLM2, PASS, "none")
    assert "1,024 tokens" in formula("activations", SMOLLM2, PASS, "full")
    assert "1/4 of each tensor" in formula("moments", ALL, PASS, "none", num_shards=4)


def test_words_of_masters_of_narrow_copies_and_of_a_lone_pass():
    masters = replace(ALL, is_widened=False, master_bytes=4)
    assert "float32 masters of 4" in formula("weights", masters, PASS, "none")
    assert "narrow copies" in formula("weights", ALL, PASS, "none")
    assert "narrow copies" not in formula("weights", ALL, PASS, "none", num_shards=2)
    wide = replace(ALL, compute_bytes=4)
    assert "whose place they take" in formula("gradients", wide, replace(PASS, is_alone=True), "none")
    assert "whose place they take" not in formula("gradients", wide, PASS, "none")
