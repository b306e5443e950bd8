"""Weights are counted from shapes as transformers and PEFT count them on the model itself."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest

from whet.errors import RecipeError
from whet.models.families import (
    KNOWN,
    PROJECTIONS,
    find_shape,
    num_adapter_parameters,
    num_lora_parameters,
    num_parameters,
    shape_from_config,
)
from whet.recipe.schema import Adapter

LLAMA_31_8B = KNOWN["meta-llama/Llama-3.1-8B"]
SMOLLM2 = KNOWN["smollm2-135m-instruct"]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    ("model_id", "num"),
    [
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("nvidia/Llama-3.1-Nemotron-Nano-8B-v1", 8_030_261_248),
        ("meta-llama/Llama-3.1-70B", 70_553_706_496),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
        ("HuggingFaceTB/SmolLM2-1.7B", 1_711_376_384),
    ],
)
def test_known_models_have_their_published_number_of_weights(model_id, num):
    assert num_parameters(KNOWN[model_id]) == num


@pytest.mark.parametrize(
    ("shape", "rank", "targets", "num"),
    [
        (LLAMA_31_8B, 8, ("q_proj", "v_proj"), 3_407_872),
        (LLAMA_31_8B, 8, ATTENTION, 6_815_744),
        (LLAMA_31_8B, 8, "all-linear", 20_971_520),
        (LLAMA_31_8B, 32, "all-linear", 83_886_080),
        (LLAMA_31_8B, 64, "all-linear", 167_772_160),
        (SMOLLM2, 8, ("q_proj", "v_proj"), 460_800),
        (SMOLLM2, 8, ATTENTION, 921_600),
        (SMOLLM2, 8, "all-linear", 2_442_240),
    ],
)
def test_adapters_have_their_published_number_of_weights(shape, rank, targets, num):
    assert num_lora_parameters(shape, rank, targets) == num


def tiny_config(**changes):
    from transformers import LlamaConfig

    sizes = {
        "num_hidden_layers": 2,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
    }
    return LlamaConfig(**(sizes | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"head_dim": 10},
        {"num_key_value_heads": 4},
        {"attention_bias": True},
        {"mlp_bias": True, "tie_word_embeddings": True},
    ],
)
def test_weights_equal_those_of_the_transformers_model(changes):
    from transformers import LlamaForCausalLM

    config = tiny_config(**changes)
    shape = shape_from_config(json.loads(config.to_json_string()))
    assert num_parameters(shape) == LlamaForCausalLM(config).num_parameters()


# PEFT 0.21 reads a property that transformers 5.23 has renamed
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapter_weights_equal_those_of_peft():
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    config = tiny_config(head_dim=10)
    shape = shape_from_config(config.to_dict())
    subsets = [("q_proj",), ("v_proj", "k_proj"), ("o_proj",), ("down_proj", "up_proj"), ATTENTION, "all-linear"]
    for rank, targets in itertools.product((1, 3), subsets):
        with torch.device("meta"):
            base = LlamaForCausalLM(config)
            names = targets if targets == "all-linear" else list(targets)
            model = get_peft_model(base, LoraConfig(r=rank, target_modules=names, task_type="CAUSAL_LM"))
        trainable, total = model.get_nb_trainable_parameters()
        assert num_lora_parameters(shape, rank, targets) == trainable
        assert num_parameters(shape) + trainable == total


def test_a_target_named_twice_is_one_target():
    assert num_lora_parameters(SMOLLM2, 8, ("q_proj", "q_proj")) == num_lora_parameters(SMOLLM2, 8, ("q_proj",))


def test_unknown_targets_are_answered_with_the_valid_names():
    with pytest.raises(RecipeError, match="no linear layer c_attn, lm_head") as caught:
        num_lora_parameters(SMOLLM2, 8, ("q_proj", "c_attn", "lm_head"))
    assert all(name in str(caught.value) for name in PROJECTIONS)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "model_type gpt2, GPT2LMHeadModel"),
        ({"model_type": "nemotron-nas"}, "model_type nemotron-nas, no architecture"),
        ({}, "model_type None"),
        ({"model_type": "llama", "hidden_size": 8}, "lacks num_hidden_layers, intermediate_size, num_attention_heads"),
    ],
)
def test_a_model_of_another_architecture_is_refused_with_its_name(config, expected):
    with pytest.raises(RecipeError, match=r"m/config\.json: ") as caught:
        shape_from_config(config, where="m/config.json")
    assert expected in str(caught.value)


def test_shapes_are_found_by_name_or_in_a_local_folder(tmp_path):
    assert find_shape("meta-llama/Llama-3.1-8B-Instruct") == LLAMA_31_8B
    assert find_shape("someone/else") is None
    config = tiny_config()
    config.save_pretrained(tmp_path)
    shape = find_shape(str(tmp_path))
    assert shape is not None and (shape.num_layers, shape.head_dim, shape.vocab) == (2, 6, 50)
    for text, expected in (("{", "is not JSON"), ("[]", "is not a JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RecipeError, match=expected):
            find_shape(str(tmp_path))


def test_a_real_pretrained_folder_has_the_shape_of_its_weights(test_data):
    from safetensors import safe_open

    folder = test_data / "stories260k" / "hf"
    shape = find_shape(str(folder))
    assert shape is not None
    with safe_open(next(folder.glob("*.safetensors")), "pt") as file:
        sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    rows, columns = zip(*(size if len(size) == 2 else (1, *size) for size in sizes.values()), strict=True)
    stored = sum(r * c for r, c in zip(rows, columns, strict=True))
    head = shape.vocab * shape.hidden
    assert num_parameters(shape) == stored - (head if shape.tie_embeddings and "lm_head.weight" in sizes else 0)


def test_counting_imports_no_torch():
    code = "import sys, whet.models.families; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "adapter",
    [
        Adapter(rank=4),
        Adapter(rank=4, method="dora", ranks={"q_proj": 6}),
        Adapter(rank=4, init="pissa", rslora=True, targets=("v_proj", "down_proj"), ranks={"v_proj": 3}),
        Adapter(rank=2, also_train=("norms", "embeddings")),
    ],
)
def test_every_kind_of_adapter_has_the_weights_of_the_attached_one(adapter):
    from tiny import attach, tiny_llama

    model = tiny_llama(is_tied=False)
    shape = shape_from_config(model.config.to_dict())
    trainables = attach(model, adapter)
    in_file = sum(tensor.numel() for tensor in trainables.tensors().values())
    assert num_adapter_parameters(shape, adapter) == (trainables.num_parameters, in_file)


def test_an_adapter_without_a_place_is_refused_before_the_model_is_loaded():
    with pytest.raises(RecipeError, match="names layers that get no adapter: o_proj"):
        num_adapter_parameters(SMOLLM2, Adapter(targets=("q_proj",), ranks={"o_proj": 2}))
    with pytest.raises(RecipeError, match="the output head of this model is its embedding"):
        num_adapter_parameters(SMOLLM2, Adapter(also_train=("embeddings",)))
