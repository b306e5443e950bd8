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
