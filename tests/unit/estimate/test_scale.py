"""Memory and time on many GPUs: sums by hand, a roofline made otherwise, and published figures of the same jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whet.estimate import memory
from whet.estimate.memory import Job
from whet.estimate.network import ETHERNET_NODES, HOPPER_NODES
from whet.estimate.scale import (
    GATHERED_BLOCKS,
    H100,
    H200,
    Rows,
    choose,
    memory_parts,
    operations_per_token,
    point,
    sharings,
    tokens_to_hide_network,
)
from whet.estimate.sharding import own_entries, weights_of

LORA_8B = Job(
    num_layers=32, hidden=4096, intermediate=14_336, query_size=4096, key_size=1024, num_heads=32, vocab=128_256,
    num_base=8_030_261_248, num_trainable=83_886_080, trains_all=False, is_fused=True, narrow_values=7 * 32,
    compute_bytes=2, is_tied=False, process_bytes=0, device="cuda",
)  # fmt: skip
LORA_70B = replace(
    LORA_8B, num_layers=80, hidden=8192, intermediate=28_672, query_size=8192, num_heads=64, num_base=70_553_706_496,
    num_trainable=414_187_520,
)  # fmt: skip
ALL_8B = replace(LORA_8B, num_trainable=LORA_8B.num_base, trains_all=True, is_fused=False, narrow_values=0)
ALL_70B = replace(LORA_70B, num_trainable=LORA_70B.num_base, trains_all=True, is_fused=False, narrow_values=0)
SHORT = Rows(mean_length=240, taught_share=0.62, tokens_per_pass=8192)
LONG = Rows(mean_length=4096, taught_share=1.0, tokens_per_pass=4096)


def sharing(strategy: str, num_gpus: int):
    return next(each for each in sharings(num_gpus, 8) if each.strategy == strategy)


def test_operations_of_a_token_are_those_of_a_roofline_made_otherwise():
    """30.0 GF for LoRA of rank 32 on MetaMathQA's rows, 13.96 more with full recompute; about 44 for all weights."""
    assert operations_per_token(LORA_8B, SHORT, "none") == pytest.approx(30.0e9, rel=0.02)
    full = operations_per_token(LORA_8B, SHORT, "full") - operations_per_token(LORA_8B, SHORT, "none")
    assert full == pytest.approx(13.96e9, rel=0.001)
    assert operations_per_token(ALL_8B, SHORT, "none") == pytest.approx(44e9, rel=0.03)


@pytest.mark.parametrize(
    ("job", "num_gpus", "recompute", "reached", "published"),
    [
        (LORA_8B, 1, "none", 0.406, 12_473),  # NeMo AutoModel, one H100
        (LORA_8B, 8, "none", 0.539, 17_809),  # NVIDIA dgxc-benchmarking v25.02, 8 H100
        (ALL_8B, 8, "none", 0.564, 12_412),  # the same
        (LORA_70B, 8, "none", 0.503, 1_797),  # the same
    ],
)
def test_published_rates_come_out_with_their_own_share_of_the_peak(job, num_gpus, recompute, reached, published):
    """Tokens per second and GPU on rows of 4,096; the network of the published 70B job was another one (TP and PP)."""
    card = replace(H100, reached_share=reached)
    strategy = "fsdp" if job.num_base > 1e10 or job.trains_all else "replicate"
    found = point(job, LONG, sharing(strategy if num_gpus > 1 else "replicate", num_gpus), card, HOPPER_NODES,
                  recompute=recompute)  # fmt: skip
    assert found.tokens / found.compute_seconds / num_gpus == pytest.approx(published, rel=0.12)
    assert found.efficiency > 0.85


def test_one_gpu_is_the_estimator_of_one_gpu():
    one_pass = SHORT.as_pass()
    assert memory_parts(LORA_8B, one_pass, "norms", 1) == memory.predict(LORA_8B, one_pass, "norms")


def test_state_of_a_rank_by_hand():
    parts = memory_parts(ALL_70B, SHORT.as_pass(), "full", 64)
    own = own_entries(weights_of(ALL_70B), 64)
    assert (parts["weights"], parts["gradients"], parts["moments"]) == (4 * own, 4 * own, 8 * own)
    block, rest = weights_of(ALL_70B).num_block, 2 * 128_256 * 8192
    assert parts["gathered"] == GATHERED_BLOCKS * 2 * block + 4 * rest
    assert parts["reducing"] == 6 * block + 4 * rest
    frozen = memory_parts(LORA_70B, SHORT.as_pass(), "full", 64)
    assert frozen["weights"] == 2 * own_entries(weights_of(LORA_70B), 64) + 4 * 414_187_520
    assert frozen["gradients"] == 4 * 414_187_520 and frozen["reducing"] == 0


@pytest.mark.parametrize("job", [LORA_70B, ALL_70B, ALL_8B])
def test_more_shards_need_less_memory_and_never_less_than_what_is_gathered(job):
    sizes = [sum(memory_parts(job, SHORT.as_pass(), "full", shards).values()) for shards in (8, 16, 64, 512)]
    assert sizes == sorted(sizes, reverse=True)
    parts = memory_parts(job, SHORT.as_pass(), "full", 512)
    assert sizes[-1] > parts["gathered"] + parts["reducing"]


def test_the_simplest_strategy_that_fits_is_chosen():
    assert choose(LORA_8B, SHORT, 8, H100, HOPPER_NODES).sharing.strategy == "replicate"
    assert choose(LORA_70B, SHORT, 8, H100, HOPPER_NODES).sharing.strategy == "fsdp"
    in_nodes = choose(LORA_70B, SHORT, 64, H100, HOPPER_NODES)
    assert (in_nodes.sharing.strategy, in_nodes.sharing.num_replicas, in_nodes.fits) == ("hsdp", 8, True)
    everywhere = choose(ALL_70B, SHORT, 64, H100, HOPPER_NODES)
    assert (everywhere.sharing.strategy, everywhere.fits) == ("fsdp", True)
    assert not choose(LORA_70B, SHORT, 1, H100, HOPPER_NODES).fits
    assert not choose(ALL_70B, SHORT, 8, H200, HOPPER_NODES).fits


def test_a_step_is_the_longer_of_computing_and_network_and_what_waits():
    fast = point(ALL_70B, SHORT, sharing("fsdp", 64), H100, HOPPER_NODES, recompute="none")
    assert fast.overlapped_seconds < fast.compute_seconds
    assert fast.step_seconds == pytest.approx(fast.compute_seconds + fast.waiting_seconds)
    slow = point(ALL_70B, SHORT, sharing("fsdp", 64), H100, ETHERNET_NODES, recompute="none")
    assert slow.overlapped_seconds > slow.compute_seconds
    assert slow.step_seconds == pytest.approx(slow.overlapped_seconds + slow.waiting_seconds)
    assert slow.efficiency < fast.efficiency < 1
    assert fast.tokens_per_second == pytest.approx(64 * 8192 / fast.step_seconds)


def test_a_pass_of_as_many_tokens_as_hide_the_network_computes_just_as_long():
    where = sharing("fsdp", 64)
    rows = replace(SHORT, tokens_per_pass=round(tokens_to_hide_network(LORA_70B, SHORT, where, H100, ETHERNET_NODES)))
    found = point(LORA_70B, rows, where, H100, ETHERNET_NODES, recompute="none")
    assert found.compute_seconds == pytest.approx(found.overlapped_seconds, rel=1e-3)


def test_bytes_of_70b_over_64_ranks_by_hand():
    """Every rank sends 63/64 of all blocks twice in bfloat16, of the rest once, and twice that of the adapter."""
    found = point(LORA_70B, SHORT, sharing("fsdp", 64), H100, HOPPER_NODES, recompute="none")
    blocks = 80 * weights_of(LORA_70B).num_block
    rest = weights_of(LORA_70B).num_rest
    expected = 63 / 64 * (2 * 2 * blocks + 2 * rest + 2 * 4 * (414_187_520 + 6 + 64))
    assert found.sent_bytes == pytest.approx(expected, rel=1e-4)  # one norm of a block is padded to nothing here
