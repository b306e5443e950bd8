"""Law: merged equals live, and other tools read the saved adapter as the same model."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from saved_adapter import read_adapter
from tiny import VOCAB, attach, distance, perturb, tiny_llama

from whet.models.merge import merge_adapter
from whet.recipe.schema import Adapter

ADAPTER = Adapter(rank=4, alpha=10.0, dropout=0.1)
IDS_BT = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (2, 25)))


def _logits(model):
    with torch.no_grad():
        return model.eval()(IDS_BT, use_cache=False).logits.double()


@pytest.fixture
def saved(tmp_path):
    """(live model, folder of its adapter), trained away from the identity."""
    model = tiny_llama(torch.float32)
    trainables = attach(model, ADAPTER)
    perturb(trainables, size=0.05)
    save_file({n: t.detach().contiguous() for n, t in trainables.tensors().items()}, tmp_path / trainables.weights_file)
    for name, document in trainables.documents.items():
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    return model, tmp_path


def test_the_adapter_of_these_tests_changes_the_model(saved):
    live, _ = saved
    assert distance(_logits(live), _logits(tiny_llama(torch.float32))) > 0.1


def test_merged_equals_live(saved):
    live, folder = saved
    merged = tiny_llama(torch.float32)
    assert merge_adapter(merged, *read_adapter(folder)) == 14
    torch.testing.assert_close(_logits(merged), _logits(live), rtol=0, atol=1e-5)


def test_merged_weights_are_w_plus_alpha_over_r_times_b_a(saved):
    _, folder = saved
    base, merged = tiny_llama(torch.float32), tiny_llama(torch.float32)
    _, tensors = read_adapter(folder)
    merge_adapter(merged, *read_adapter(folder))
    before, after = base.state_dict(), merged.state_dict()
    for name, weight in after.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        expected = before[name].numpy().astype(np.float64)
        if f"{stem}.lora_A.weight" in tensors:
            a, b = (tensors[f"{stem}.lora_{x}.weight"].numpy().astype(np.float64) for x in "AB")
            expected = expected + 10.0 / 4 * b @ a
        np.testing.assert_allclose(weight.numpy(), expected, rtol=0, atol=1e-6)


def test_peft_loads_the_saved_folder_onto_a_pristine_base_without_a_warning(saved):
    # the suite turns warnings into errors
    live, folder = saved
    loaded = PeftModel.from_pretrained(tiny_llama(torch.float32), folder)
    torch.testing.assert_close(_logits(loaded), _logits(live), rtol=0, atol=1e-5)
    torch.testing.assert_close(_logits(loaded.merge_and_unload()), _logits(live), rtol=0, atol=1e-5)


def test_the_saved_configuration_holds_no_path_of_this_machine(saved):
    _, folder = saved
    config, _ = read_adapter(folder)
    text = json.dumps(config)
    assert str(folder) not in text and "/" not in text.replace("https://", "")
    assert config["base_model_name_or_path"] == "tiny"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["use_rslora"]) == (4, 10.0, 0.1, False)


def test_a_bfloat16_base_is_merged_in_float32_and_cast_once(saved):
    _, folder = saved
    config, tensors = read_adapter(folder)
    # an update far smaller than bfloat16's step: summing it in bfloat16 would lose most of it
    tensors = {n: t * (0.1 if "lora_B" in n else 1.0) for n, t in tensors.items()}
    merged = tiny_llama(torch.bfloat16)
    wide = {n: t.double() for n, t in merged.state_dict().items()}
    merge_adapter(merged, config, tensors)
    for name, weight in merged.state_dict().items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in tensors:
            a, b = (tensors[f"{stem}.lora_{x}.weight"].double() for x in "AB")
            exact = wide[name] + 2.5 * b @ a
            # the nearest bfloat16: float32's rounding before the cast may tip a tie, no more
            assert (weight != exact.to(torch.bfloat16)).double().mean() < 1e-3


def test_rank_stabilised_scale_is_alpha_over_the_root_of_the_rank(saved):
    _, folder = saved
    config, tensors = read_adapter(folder)
    plain, stabilised = tiny_llama(torch.float64), tiny_llama(torch.float64)
    merge_adapter(plain, config | {"lora_alpha": 20.0}, tensors)
    merge_adapter(stabilised, config | {"use_rslora": True}, tensors)
    assert torch.allclose(_logits(plain), _logits(stabilised), rtol=0, atol=1e-12)
