"""Predicted memory: the sizes add up, what layers keep is counted on real ones, and choices follow from the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whet.estimate import memory
from whet.estimate.memory import LEVELS, Job, Pass, budget_bytes, choose, kept_probabilities, predict, saved_layer_bytes

SMOLLM2 = Job(
    num_layers=30, hidden=576, intermediate=1536, query_size=576, key_size=192, num_heads=9, vocab=49_152,
    num_base=134_515_008, num_trainable=2_442_240, trains_all=False, is_fused=True, narrow_values=7 * 8,
    compute_bytes=2, is_tied=True,
)  # fmt: skip
ALL_WEIGHTS = replace(SMOLLM2, num_trainable=SMOLLM2.num_base, trains_all=True, is_fused=False, narrow_values=0)
PASSES = {n: Pass(tokens=256 * n, taught=128 * n, probabilities=n * kept_probabilities(256)) for n in (1, 2, 4, 8, 16)}


def total(job, one_pass, level):
    return sum(predict(job, one_pass, level).values())


@pytest.mark.parametrize("prefix", [0, 40])
@pytest.mark.parametrize("length", [41, 64, 100, 128, 191, 192, 300, 511, 512])
def test_kept_probabilities_are_those_of_the_tiles_of_attention(length, prefix):
    torch_side = pytest.importorskip("whet.kernels.attention_tiles")
    stretch = torch_side.stretches((length - prefix,), prefix)[-1]
    assert kept_probabilities(length, prefix) == sum((tile.last - tile.first) * tile.last for tile in stretch.tiles)
    assert torch_side.LONGEST_KEPT == memory.LONGEST_KEPT_PROBABILITIES
    assert kept_probabilities(memory.LONGEST_KEPT_PROBABILITIES + 1) == 0


def test_a_block_of_logits_is_that_of_the_loss_head():
    torch_side = pytest.importorskip("whet.kernels.loss_head")
    assert torch_side.ROWS_PER_CHUNK == memory.ROWS_OF_HEAD
    assert torch_side.TOKENS_PER_BLOCK == memory.TOKENS_OF_HEAD


@pytest.mark.parametrize("job", [SMOLLM2, ALL_WEIGHTS], ids=["adapter", "all weights"])
def test_weights_gradients_and_moments_by_hand(job):
    parts = predict(job, PASSES[4], "none")
    if job.trains_all:
        masters = 134_515_008 * 4
        assert parts["weights"] == masters + 134_515_008 * 2  # and their bfloat16 copies in a forward pass
    else:
        masters = 2_442_240 * 4
        assert parts["weights"] == 134_515_008 * 2 + masters
    assert (parts["gradients"], parts["moments"], parts["checkpoint"]) == (masters, 2 * masters, 3 * masters)


@pytest.mark.parametrize("job", [SMOLLM2, ALL_WEIGHTS, replace(SMOLLM2, is_fused=False)])
@pytest.mark.parametrize("micro", [1, 4, 16])
def test_more_recompute_never_needs_more_and_more_tokens_always_do(job, micro):
    by_level = [total(job, PASSES[micro], level) for level in LEVELS]
    assert by_level == sorted(by_level, reverse=True)
    assert by_level[-1] < by_level[0]
    assert all(total(job, PASSES[16], level) > total(job, PASSES[8], level) for level in LEVELS)


def test_ranks_of_a_machine_share_what_is_free():
    one, two = (budget_bytes(free_bytes=10**10, own_bytes=10**9, num_sharing=n) for n in (1, 2))
    assert one == 10**9 + int(memory.SHARE_OF_FREE * 10**10)
    assert two == 10**9 + int(memory.SHARE_OF_FREE * 10**10 / 2)


def test_a_limit_of_the_recipe_holds_where_it_is_tighter():
    assert budget_bytes(free_bytes=10**10, own_bytes=0, num_sharing=1, memory_gb=2.5) == 2_500_000_000
    assert budget_bytes(free_bytes=10**9, own_bytes=0, num_sharing=1, memory_gb=2.5) < 10**9


def pick(budget, **settings):
    return choose(SMOLLM2, PASSES, **{"budget_bytes": budget, "enough_tokens": 10**9, **settings})


def test_with_room_the_pass_is_as_large_as_brings_speed_and_not_larger():
    assert pick(10**12).micro_batch == 16
    for enough, expected in ((1, 1), (256, 1), (257, 2), (1024, 4), (10**9, 16)):
        choice = pick(10**12, enough_tokens=enough)
        assert (choice.micro_batch, choice.recompute) == (expected, "none")


def test_every_choice_fits_where_anything_does_and_uses_what_it_may():
    budgets = [total(SMOLLM2, PASSES[micro], level) for micro in PASSES for level in LEVELS]
    for budget in budgets:
        choice = pick(budget)
        assert choice.fits and choice.predicted_bytes <= budget
        assert choice.predicted_bytes == total(SMOLLM2, PASSES[choice.micro_batch], choice.recompute)


def test_smaller_passes_come_before_layers_are_made_anew_and_norms_before_smaller_passes():
    assert pick(total(SMOLLM2, PASSES[16], "none") - 1).recompute == "norms"
    assert pick(total(SMOLLM2, PASSES[16], "norms") - 1).micro_batch == 8
    least = pick(total(SMOLLM2, PASSES[1], "norms") - 1)
    assert least.recompute in ("mlp", "full")


def test_levels_that_the_recipe_fixes_are_the_only_ones():
    assert pick(10**12, levels=("full",)).recompute == "full"
    assert pick(1, levels=("none",)).recompute == "none"


def test_what_does_not_fit_is_said_with_the_least_that_is_needed():
    choice = pick(10**6)
    assert (choice.micro_batch, choice.recompute, choice.fits) == (1, "full", False)
    assert "more than there is" in choice.sentence()


def test_the_sentence_names_bytes_samples_tokens_and_recompute():
    choice = memory.Choice(
        micro_batch=4, recompute="none", predicted_bytes=1_900_000_000, budget_bytes=22_000_000_000, tokens=2048
    )
    assert choice.sentence() == (
        "memory: predicts 1.9 GB of 22 GB: 4 samples (up to 2,048 tokens) a pass, no recompute"
    )  # fmt: skip
    assert (
        "1 sample (up to 2,048 tokens) a pass, recompute mlp"
        in replace(choice, micro_batch=1, recompute="mlp").sentence()
    )


LLAMA_8B = Job(
    num_layers=32, hidden=4096, intermediate=14_336, query_size=4096, key_size=1024, num_heads=32, vocab=128_256,
    num_base=8_030_261_248, num_trainable=83_886_080, trains_all=False, is_fused=True, narrow_values=7 * 32,
    compute_bytes=2, is_tied=False, process_bytes=0, device="cuda",
)  # fmt: skip
MODELLED_GB = {
    2048: (26.1, 25.0, 19.6, 19.3), 4096: (33.3, 31.2, 20.3, 26.5), 8192: (47.8, 43.5, 21.9, 41.0),
    16_384: (76.8, 68.2, 24.9, 70.0), 32_768: (134.8, 117.6, 31.0, None),
}  # fmt: skip
"""tokens of a pass -> GB: none, norms and full recompute in bfloat16, none over float8 weights (9.08 GB)"""


@pytest.mark.parametrize("tokens", MODELLED_GB)
def test_8b_with_an_adapter_of_rank_32_on_a_gpu_is_what_a_model_made_otherwise_says(tokens):
    """A roofline of the same job that counts weights, states, 108 KiB per token and layer and one chunk of logits.

    It knows neither the working memory of a layer nor holes, and has its logits in chunks of 1.6 GB where ours are 0.2.
    """
    one_pass = Pass(tokens=tokens, taught=int(0.62 * tokens), probabilities=10**12)
    in_float8 = replace(LLAMA_8B, base_bytes=9_080_000_000)  # all linear layers, as that model has it
    cases = [(LLAMA_8B, "none"), (LLAMA_8B, "norms"), (LLAMA_8B, "full"), (in_float8, "none")]
    for (job, level), expected in zip(cases, MODELLED_GB[tokens], strict=True):
        parts = predict(job, one_pass, level)
        if expected is not None:
            assert (sum(parts.values()) - parts["slack"]) / 1e9 == pytest.approx(expected, rel=0.1)
        assert parts["checkpoint"] == 0 and parts["slack"] > 0


def test_a_layer_keeps_108_kib_of_a_token_ranks_and_what_attention_normalises_by():
    kept = saved_layer_bytes(LLAMA_8B, Pass(tokens=1, taught=1, probabilities=10**12), "none")
    assert kept == 108 * 1024 + 2 * 7 * 32 + 4 * 32


def test_on_the_cpu_a_checkpoint_lies_beside_what_it_copies():
    parts = predict(replace(LLAMA_8B, device="cpu"), PASSES[1], "none")
    assert parts["checkpoint"] == 3 * 4 * 83_886_080


@pytest.mark.parametrize(("device", "bytes_per_weight"), [("cpu", 12), ("cuda", 0)])
def test_the_snapshot_of_a_guard_is_a_copy_of_what_trains_and_its_moments(device, bytes_per_weight):
    job = replace(SMOLLM2, device=device)
    one_pass = Pass(tokens=1000, taught=500, probabilities=0)
    added = total(replace(job, has_snapshot=True), one_pass, "none") - total(job, one_pass, "none")
    assert added == bytes_per_weight * job.num_trainable


def test_gradients_take_the_place_of_activations_in_a_step_of_one_pass_without_autocast():
    wide = replace(ALL_WEIGHTS, compute_bytes=4)
    several, alone = PASSES[4], replace(PASSES[4], is_alone=True)
    parts = predict(wide, alone, "none")
    assert parts["gradients"] == max(0, 134_515_008 * 4 - parts["activations"])
    assert predict(wide, several, "none")["gradients"] == 134_515_008 * 4
    assert predict(ALL_WEIGHTS, alone, "none") == predict(ALL_WEIGHTS, several, "none")  # autocast needs both
    assert predict(SMOLLM2, alone, "none") == predict(SMOLLM2, several, "none")


def test_holes_are_more_in_bfloat16_and_with_dropout_and_a_plan_counts_them():
    def slack(**changes):
        job = replace(SMOLLM2, **changes)
        parts = predict(job, PASSES[4], "none")
        return parts["slack"] / (parts["activations"] + parts["work"])

    assert slack(compute_bytes=4) < slack() < slack(has_dropout=True)
    assert slack(device="cuda") == pytest.approx(0.1, rel=1e-3)
