"""What would help most where memory ran out: by the estimate, the largest effect first, and nothing that cannot be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import make_plan, tiny_llama

from whet.estimate import memory
from whet.estimate.memory import Pass, kept_probabilities
from whet.models.families import shape_from_config
from whet.parallel.mesh import Layout
from whet.recipe import parse_recipe
from whet.train.memory_advice import explain_shortage
from whet.train.memory_job import job_from
from whet.train.memory_savings import Setting, predicted_bytes, savings
from whet.train.pass_size import PassSize

CONFIG = tiny_llama(torch.float32).config.to_dict() | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256,
}  # fmt: skip
SHAPE = shape_from_config(CONFIG)
LONG = PassSize(lengths=(1024,), num_taught=700, what="none")


def recipe(*overrides):
    text = "name: a\noutput: b\ndata: {train: [{source: r.jsonl}], max_length: 2048}\nbatch: {global_size: 4}\n"
    return parse_recipe(text, "r.yaml", overrides)


def setting(*, device="cuda", compute_bytes=2, recompute="none", layout=None):
    plan = SimpleNamespace(recompute=recompute)
    return Setting(
        shape=SHAPE, plan=plan, layout=layout or Layout(), device=device, compute_bytes=compute_bytes
    )  # fmt: skip


def by_hand(made, one_pass, recompute, *, compute_bytes=2):
    return sum(
        memory.predict(job_from(made, SHAPE, compute_bytes=compute_bytes, device="cuda"), one_pass, recompute).values()
    )


def test_each_saving_is_the_difference_of_two_predictions():
    found = {saving.change: saving.num_bytes for saving in savings(recipe(), setting(), LONG)}
    whole = Pass(tokens=1024, taught=700, probabilities=kept_probabilities(1024))
    half = Pass(tokens=512, taught=512, probabilities=kept_probabilities(512))
    now = by_hand(recipe(), whole, "none")
    assert predicted_bytes(recipe(), setting(), LONG) == now
    assert found["train.recompute=full"] == now - by_hand(recipe(), whole, "full")
    assert found["data.max_length=512"] == now - by_hand(recipe(), half, "none")


def test_the_largest_effect_comes_first_and_nothing_small_is_said():
    for made in (recipe(), recipe("adapter.method=none"), recipe("adapter.method=none", "optim.name=adamw_8bit")):
        found = savings(made, setting(), LONG)
        sizes = [saving.num_bytes for saving in found]
        assert len(found) >= 3 and sizes == sorted(sizes, reverse=True)
        assert sizes[-1] >= 0.01 * predicted_bytes(made, setting(), LONG)


def test_all_weights_are_told_to_become_an_adapter_or_to_have_smaller_moments():
    found = [saving.change for saving in savings(recipe("adapter.method=none"), setting(), LONG)]
    assert found[0] == "adapter.method=lora" and "optim.name=adamw_8bit" in found
    assert not any(change.startswith("model.quantize") for change in found)


def test_a_frozen_base_may_be_rounded_on_a_gpu_alone():
    on_gpu = {saving.change for saving in savings(recipe(), setting(), LONG)}
    on_cpu = {saving.change for saving in savings(recipe(), setting(device="cpu"), LONG)}
    assert "model.quantize=fp8" in on_gpu and not any("quantize" in change for change in on_cpu)


def test_what_is_done_already_is_not_proposed():
    made = recipe("train.recompute=full", "optim.name=adamw_8bit", "batch.micro_size=1", "model.quantize=nf4")
    found = {saving.change.partition("=")[0] for saving in savings(made, setting(recompute="full"), LONG)}
    assert not found & {"train.recompute", "optim.name", "batch.micro_size", "model.quantize"}


def test_several_samples_may_become_one_and_ranks_may_share_weights():
    size = PassSize(lengths=(512, 512, 512, 512), num_taught=1000)
    layout = Layout(world_size=4, num_data_ranks=4)
    found = {saving.change: saving for saving in savings(recipe("adapter.method=none"), setting(layout=layout), size)}
    assert found["batch.micro_size=1"].is_free and found["parallel.strategy=fsdp"].is_free
    assert not found["adapter.method=lora"].is_free and not found["data.max_length=256"].is_free


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_the_error_states_what_was_predicted_and_held_and_three_changes(model_type):
    plan = make_plan(4, micro_batch=1, global_batch=4)
    config = SimpleNamespace(model_type=model_type, to_dict=lambda: CONFIG)
    loaded = SimpleNamespace(model=SimpleNamespace(config=config), compute_dtype=torch.float32)
    error = explain_shortage(recipe(), plan, loaded, Layout(), torch.device("cpu"), "step 3: out of memory", LONG)
    assert error.exit_code == 9 and "GB held at the peak" in error.what and error.what.startswith("step 3:")
    if model_type == "llama":
        assert error.mend.count(" saves ") == 3 and "(this run can go on with it)" in error.mend
        assert "GB predicted for this pass" in error.what
    else:
        assert "train.recompute=full" in error.mend
