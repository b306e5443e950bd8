import json

import pytest
import torch
from tiny import IDENTITY, LORA, attach, perturb, tiny_llama

from whet.errors import StorageError
from whet.models.adapters import ADAPTER_CONFIG, linear_names, train_all_weights


def test_every_linear_layer_but_the_head_can_be_adapted():
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert linear_names(tiny_llama(is_tied=False)) == names


def test_saved_names_are_pefts_own():
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    theirs = get_peft_model(tiny_llama(), LoraConfig(target_modules="all-linear", r=4, task_type="CAUSAL_LM"))
    assert set(attach(tiny_llama(), LORA).named) == set(get_peft_model_state_dict(theirs))


def test_everything_but_the_adapter_is_frozen():
    model = tiny_llama()
    attach(model, LORA)
    assert all(("lora_" in name) == p.requires_grad for name, p in model.named_parameters())


def test_the_configuration_names_the_base_by_id_and_hash():
    config = attach(tiny_llama(), LORA).documents[ADAPTER_CONFIG]
    assert config["base_model_name_or_path"] == IDENTITY.id
    assert config["auto_mapping"]["base_weights_sha256"] == IDENTITY.weights_sha256
    assert config["inference_mode"] is True and config["peft_type"] == "LORA"
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize("make", [lambda: attach(tiny_llama(), LORA), lambda: train_all_weights(tiny_llama())])
def test_loading_puts_saved_values_back(make):
    trainables = make()
    saved = {n: t.detach().clone() for n, t in trainables.tensors().items()}
    perturb(trainables)
    assert not any(torch.equal(saved[n], p) for n, p in trainables.named.items())
    trainables.load(saved)
    assert all(torch.equal(saved[n], p) for n, p in trainables.named.items())


def test_values_of_another_model_are_refused_by_name():
    trainables = attach(tiny_llama(), LORA)
    saved = {n: t.detach() for n, t in trainables.tensors().items()}
    name = next(iter(saved))
    with pytest.raises(StorageError, match="elsewhere"):
        trainables.load(saved | {"elsewhere": torch.zeros(1)})
    with pytest.raises(StorageError, match=r"has shape \(3,\)"):
        trainables.load(saved | {name: torch.zeros(3)})
    del saved[name]
    with pytest.raises(StorageError, match=name):
        trainables.load(saved)


def test_full_fine_tuning_keeps_no_path_in_the_configuration():
    model = tiny_llama()
    model.config._name_or_path = "/home/somebody/model"
    trainables = train_all_weights(model)
    assert "/home" not in json.dumps(trainables.documents)
    assert trainables.num_parameters == sum(p.numel() for p in model.parameters())
    assert not trainables.is_adapter and trainables.weights_file == "model.safetensors"
