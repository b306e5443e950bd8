import pytest
import torch
from tiny import LORA, attach, tiny_llama

from whet.kernels import attention, select
from whet.models.adapters import ADAPTER_NAME
from whet.recipe.schema import Adapter


def test_the_summary_says_what_runs():
    model = tiny_llama()
    attach(model, LORA)
    chosen = select.install(model, adapter_name=ADAPTER_NAME)
    assert model.config._attn_implementation == attention.NAME
    assert "matrix products up to 1024 tokens" in chosen["attention"]
    assert chosen["adapter"] == "fused function in 14 layers"


def test_without_an_adapter_nothing_is_said_of_one():
    assert "adapter" not in select.install(tiny_llama(), adapter_name=None)


def test_a_layer_left_to_peft_is_told_with_its_reason():
    model = tiny_llama()
    attach(model, Adapter(targets=("q_proj", "v_proj")))
    model.model.layers[0].self_attn.q_proj.base_layer.weight.requires_grad_(True)
    sentence = select.install(model, adapter_name=ADAPTER_NAME)["adapter"]
    assert sentence.startswith("fused function in 3 layers, PEFT's in 1 (")
    assert "its base weight trains too" in sentence


def test_what_is_switched_off_is_told_and_left_to_the_modules():
    model = tiny_llama(torch.float32)
    attach(model, LORA)
    chosen = select.install(model, adapter_name=ADAPTER_NAME, off=select.SWITCHES)
    assert {name for name, sentence in chosen.items() if sentence == "switched off"} == select.SWITCHES
    assert not any("forward" in vars(module) for module in model.modules())
    assert model.config._attn_implementation == attention.NAME


def test_without_the_adapters_function_there_is_none_of_several_adapters_either():
    model = tiny_llama(torch.float32)
    attach(model, LORA)
    chosen = select.install(model, adapter_name=ADAPTER_NAME, off=frozenset({"adapter"}))
    assert chosen["adapter"] == chosen["qkv"] == chosen["mlp"] == "switched off"
    assert chosen["norm"] == "fused function in 5 norms"


def test_a_switch_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no such operations: rope"):
        select.install(tiny_llama(), adapter_name=None, off=frozenset({"rope", "norm"}))


def test_a_second_installation_takes_the_place_of_the_first():
    model = tiny_llama(torch.float32)
    before = model.config._attn_implementation
    for _ in range(2):
        chosen = select.install(model, adapter_name=None)
        assert chosen["rotary"] == chosen["swiglu"] == "fused function in 2 blocks"
    select.uninstall(model)
    assert model.config._attn_implementation == before


def test_float64_norms_stay_the_modules_own():
    assert select.install(tiny_llama(), adapter_name=None)["norm"].startswith("the modules' own")
