"""Merging in memory and one tensor at a time: the same function, the same refusals."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny import LORA, attach, perturb, tiny_llama

from whet.errors import StorageError
from whet.models.adapter_source import EMBEDDING, HEAD, AdapterUpdate, LayerUpdate, parse_adapter
from whet.models.adapters import ADAPTER_CONFIG
from whet.models.merge import MergedWeights, merge_adapter, merged_weight


@pytest.fixture
def adapter():
    """(config, tensors) of a perturbed adapter of the tiny model."""
    trainables = attach(tiny_llama(torch.float32), LORA)
    perturb(trainables)
    return trainables.documents[ADAPTER_CONFIG], {n: t.detach() for n, t in trainables.tensors().items()}


def weights_of(model, tmp_path):
    """(named weights, their file)."""
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    save_file(weights, tmp_path / "model.safetensors")
    return weights, (tmp_path / "model.safetensors",)


def test_an_adapter_of_another_model_or_rank_is_refused_by_name(adapter):
    config, tensors = adapter
    elsewhere = {n.replace("layers.1", "layers.9"): t for n, t in tensors.items()}
    with pytest.raises(StorageError, match=r"layers\.9.*does not have"):
        merge_adapter(tiny_llama(), config, elsewhere)
    with pytest.raises(StorageError, match="has rank 4 in A and 4 in B, but adapter_config says 8"):
        merge_adapter(tiny_llama(), config | {"r": 8}, tensors)


def test_a_row_of_dora_has_the_length_of_its_magnitude():
    generator = torch.Generator().manual_seed(0)
    weight_OI, a_RI, b_OR = (torch.randn(shape, generator=generator) for shape in ((6, 5), (2, 5), (6, 2)))
    magnitude_O = torch.rand(6, generator=generator) + 0.5
    merged = merged_weight(weight_OI, LayerUpdate(a_RI=a_RI, b_OR=b_OR, scale=1.5, magnitude_O=magnitude_O))
    torch.testing.assert_close(merged.norm(dim=1), magnitude_O)
    plain = merged_weight(weight_OI, LayerUpdate(a_RI=a_RI, b_OR=b_OR, scale=1.5))
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(merged, plain), torch.ones(6))


def test_tensor_by_tensor_is_the_same_as_in_memory(adapter, tmp_path):
    model = tiny_llama(torch.bfloat16)
    _, files = weights_of(model, tmp_path)
    update = parse_adapter(*adapter, model.config.to_dict())
    lazy = MergedWeights(files, update, is_tied=True)
    merge_adapter(model, *adapter)
    expected = dict(model.named_parameters())
    assert list(lazy.tensors) == sorted(expected)
    for name, weight in expected.items():
        assert torch.equal(lazy.read(name).to(torch.bfloat16), weight)


def test_a_changed_layer_is_read_before_it_is_rounded(adapter, tmp_path):
    model = tiny_llama(torch.bfloat16)
    _, files = weights_of(model, tmp_path)
    lazy = MergedWeights(files, parse_adapter(*adapter, model.config.to_dict()), is_tied=True)
    assert lazy.read("model.layers.0.self_attn.q_proj.weight").dtype == torch.float32
    assert lazy.read("model.norm.weight").dtype == torch.bfloat16


def test_a_tied_head_that_the_file_repeats_is_left_out(tmp_path):
    weights, _ = weights_of(tiny_llama(torch.float32), tmp_path)
    save_file(weights | {HEAD: weights[EMBEDDING].clone()}, tmp_path / "model.safetensors")
    assert HEAD not in MergedWeights((tmp_path / "model.safetensors",), None, is_tied=True).tensors
    assert HEAD in MergedWeights((tmp_path / "model.safetensors",), None, is_tied=False).tensors


def test_an_embedding_trained_apart_from_its_tied_head_unties_the_head(adapter, tmp_path):
    model = tiny_llama(torch.float32)
    weights, files = weights_of(model, tmp_path)
    trained = weights[EMBEDDING] + 1
    config = adapter[0] | {"modules_to_save": ["embed_tokens"]}
    tensors = adapter[1] | {f"base_model.model.{EMBEDDING}": trained}
    update = parse_adapter(config, tensors, model.config.to_dict())
    lazy = MergedWeights(files, update, is_tied=True)
    assert not lazy.is_tied
    assert torch.equal(lazy.read(EMBEDDING), trained) and torch.equal(lazy.read(HEAD), weights[EMBEDDING])
    merge_adapter(model, config, tensors)
    assert torch.equal(model.lm_head.weight, weights[EMBEDDING])
    assert torch.equal(model.model.embed_tokens.weight, trained)


def test_a_head_saved_with_its_embedding_stays_tied(adapter, tmp_path):
    weights, files = weights_of(tiny_llama(torch.float32), tmp_path)
    update = AdapterUpdate(layers={}, replaced={HEAD: weights[EMBEDDING] + 1})
    lazy = MergedWeights(files, update, is_tied=True)
    assert lazy.is_tied and torch.equal(lazy.read(EMBEDDING), weights[EMBEDDING] + 1)


def test_a_full_fine_tuning_passes_through(tmp_path):
    weights, files = weights_of(tiny_llama(torch.bfloat16), tmp_path)
    lazy = MergedWeights(files, None, is_tied=True)
    assert all(torch.equal(lazy.read(name), weight) for name, weight in weights.items())
    assert json.dumps(sorted(weights)) == json.dumps(list(lazy.tensors))
