"""Bytes on disk follow from weight counts; checked against files that safetensors writes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from whet.estimate.disk import adapter_bytes, checkpoint_bytes, final_bytes, num_checkpoints, run_bytes


@pytest.mark.parametrize(
    ("save_every", "steps_per_epoch", "total_steps", "count"),
    [(10, 1000, 100, 10), (10, 1000, 101, 11), (10, 25, 100, 12), (200, 1000, 100, 1), (3, 4, 12, 6)],
)
def test_checkpoints_come_by_cadence_at_the_ends_of_epochs_and_of_the_run(
    save_every, steps_per_epoch, total_steps, count
):
    plan = SimpleNamespace(save_every=save_every, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    assert num_checkpoints(plan) == count


def test_published_adapter_sizes():
    assert adapter_bytes(6_815_744) == 27_262_976  # 27.26 MB: rank 8 on q, k, v, o of Llama-3.1-8B
    assert adapter_bytes(83_886_080) == 335_544_320  # 335.5 MB: rank 32 on all linear layers


def test_an_adapter_file_has_the_estimated_size_up_to_its_header(tmp_path):
    import torch
    from safetensors.torch import save_file

    tensors = {f"layer.{i}.lora_A.weight": torch.zeros(8, 96) for i in range(30)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    header = (tmp_path / "adapter_model.safetensors").stat().st_size - adapter_bytes(30 * 8 * 96)
    assert 0 < header < 200 * len(tensors)


def test_an_adapter_checkpoint_is_weights_and_two_moments():
    assert checkpoint_bytes(1000, 10**9, "lora") == 1000 * (4 + 4 + 4)


def test_a_file_that_holds_more_than_what_trains_counts_once_and_its_moments_do_not():
    for method in ("lora", "dora"):
        assert checkpoint_bytes(1000, 10**9, method, num_in_file=2000) == 2000 * 4 + 1000 * 8
        assert final_bytes(1000, 10**9, method, num_in_file=2000) == 2000 * 4
        assert run_bytes(1000, 10**9, method, keep=1, num_in_file=2000) == 1.1 * (2 * 16_000 + 8000)


def test_a_full_checkpoint_holds_a_master_copy_only_where_the_saved_format_is_narrower():
    assert checkpoint_bytes(1000, 1000, "none") == 1000 * (4 + 8)
    assert checkpoint_bytes(1000, 1000, "none", saved_bytes_per_weight=2) == 1000 * (2 + 4 + 8)


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_a_run_holds_the_newest_checkpoints_the_best_and_the_result(keep):
    for method in ("lora", "none"):
        parts = [checkpoint_bytes(1000, 5000, method)] * keep + [checkpoint_bytes(1000, 5000, method)]
        parts.append(final_bytes(1000, 5000, method))
        assert run_bytes(1000, 5000, method, keep=keep) == pytest.approx(1.1 * sum(parts), abs=1)


def test_full_tuning_of_an_8b_model_needs_hundreds_of_gigabytes():
    num = 8_030_261_248
    assert run_bytes(num, num, "none", keep=2) == pytest.approx(1.1 * (3 * 12 + 4) * num, rel=1e-9)


NUM_8B = 8_030_261_248


def test_an_8b_sft_checkpoint_in_bfloat16_with_float32_masters_is_112_gb():
    """What NeMo's tutorial writes, of which it keeps two: https://github.com/NVIDIA/NeMo, llama-3 sft notebook."""
    assert checkpoint_bytes(NUM_8B, NUM_8B, "none", saved_bytes_per_weight=2) == pytest.approx(112.4e9, rel=1e-3)


def test_whet_s_own_holds_the_float32_weights_once_and_moments_of_8_bits_hold_no_masters():
    assert checkpoint_bytes(NUM_8B, NUM_8B, "none") == pytest.approx(96.4e9, rel=1e-3)
    narrow = checkpoint_bytes(
        NUM_8B, NUM_8B, "none", saved_bytes_per_weight=2, has_masters=False, moment_bytes=2 + 2 * 4 / 256
    )  # fmt: skip
    assert narrow == pytest.approx(4.03125 * NUM_8B)
