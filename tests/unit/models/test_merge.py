import pytest
import torch
from tiny import LORA, attach, perturb, tiny_llama

from whet.errors import StorageError
from whet.models.adapters import ADAPTER_CONFIG
from whet.models.merge import lora_pairs, merge_adapter

A_NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def adapter():
    """(config, tensors) of a perturbed adapter of the tiny model."""
    trainables = attach(tiny_llama(torch.float32), LORA)
    perturb(trainables)
    return trainables.documents[ADAPTER_CONFIG], {n: t.detach() for n, t in trainables.tensors().items()}


def test_factors_are_paired_by_module(adapter):
    pairs = lora_pairs(adapter[1])
    assert len(pairs) == 14
    a_RI, b_OR = pairs["model.layers.1.mlp.down_proj"]
    assert a_RI.shape == (4, 96) and b_OR.shape == (64, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(A_NAME), "without their A factors"),
        (lambda t: t.pop(A_NAME.replace("_A", "_B")), "lora_B.weight is missing"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(1)}), "is not a LoRA factor"),
    ],
)
def test_factors_that_do_not_pair_up_are_refused(adapter, change, message):
    change(adapter[1])
    with pytest.raises(StorageError, match=message):
        lora_pairs(adapter[1])


@pytest.mark.parametrize("key", ["use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"])
def test_an_adapter_of_another_kind_is_refused(adapter, key):
    with pytest.raises(StorageError, match=key):
        merge_adapter(tiny_llama(), adapter[0] | {key: {"q_proj": 2}}, adapter[1])


def test_an_adapter_of_another_model_or_rank_is_refused_by_name(adapter):
    config, tensors = adapter
    elsewhere = {n.replace("layers.1", "layers.9"): t for n, t in tensors.items()}
    with pytest.raises(StorageError, match=r"layers\.9.*does not have"):
        merge_adapter(tiny_llama(), config, elsewhere)
    with pytest.raises(StorageError, match="has rank 4, but adapter_config says 8"):
        merge_adapter(tiny_llama(), config | {"r": 8}, tensors)
