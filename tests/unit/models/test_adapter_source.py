"""Foreign and damaged adapters: read as PEFT reads them, or refused with a sentence that names the fault."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from tiny import LORA, attach, perturb, tiny_llama

from whet.errors import RecipeError, StorageError
from whet.models.adapter_source import check_fits, parse_adapter, read_adapter_folder
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS

PREFIX = "base_model.model."
MODULE = "model.layers.0.self_attn.q_proj"
A_NAME, B_NAME = (f"{PREFIX}{MODULE}.lora_{x}.weight" for x in "AB")


@pytest.fixture
def adapter():
    """(config, tensors) of a perturbed adapter of the tiny model."""
    trainables = attach(tiny_llama(torch.float32), LORA)
    perturb(trainables)
    return trainables.documents[ADAPTER_CONFIG], {n: t.detach() for n, t in trainables.tensors().items()}


@pytest.fixture
def folder(adapter, tmp_path):
    write(tmp_path, *adapter)
    return tmp_path


def write(folder, config, tensors):
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / ADAPTER_WEIGHTS)


def parse(config, tensors):
    """Parsed and checked against the tiny model."""
    model = tiny_llama(torch.float32)
    update = parse_adapter(config, tensors, model.config.to_dict())
    check_fits(update, {n: tuple(p.shape) for n, p in model.named_parameters()}, config)
    return update


def test_factors_are_found_by_module_with_their_scale(adapter):
    update = parse(*adapter)
    assert len(update.layers) == 14 and update.replaced == {}
    layer = update.layers["model.layers.1.mlp.down_proj"]
    assert layer.a_RI.shape == (4, 96) and layer.b_OR.shape == (64, 4) and layer.scale == 2.0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 8, "^model.layers.0.mlp.up_proj": 2}, "alpha_pattern": {"down_proj": 3}},
        {"rank_pattern": {"0.self_attn.q_proj": 8}, "use_rslora": True},
    ],
    ids=["plain", "rslora", "dora", "patterns", "rslora with a pattern"],
)
def test_scales_and_magnitudes_are_pefts_own(options):
    config = LoraConfig(target_modules="all-linear", r=4, lora_alpha=6, task_type="CAUSAL_LM", **options)
    model = get_peft_model(tiny_llama(torch.float32), config)
    document = json.loads(json.dumps(config.to_dict(), default=lambda v: sorted(v) if isinstance(v, set) else v.value))
    layers = parse(document, get_peft_model_state_dict(model)).layers
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            layer = layers[name.removeprefix(PREFIX)]
            assert layer.scale == module.scaling["default"] and layer.rank == module.r["default"]
            assert (layer.magnitude_O is not None) == bool(options.get("use_dora"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, t: t.pop(A_NAME), rf"{MODULE}\.lora_A is missing"),
        (lambda c, t: t.pop(B_NAME), rf"{MODULE}\.lora_B is missing"),
        (lambda c, t: (t.pop(A_NAME), t.pop(B_NAME)), f"factors of {MODULE} are missing"),
        (lambda c, t: t.update({f"{PREFIX}model.norm.weight": torch.zeros(64)}), "is no part of a LoRA adapter"),
        (lambda c, t: t.update({f"{PREFIX}{MODULE}.lora_magnitude_vector": torch.ones(64)}), "not DoRA's"),
        (lambda c, t: c.update(use_dora=True), "lora_magnitude_vector is missing"),
        (lambda c, t: c.update(r=8), "has rank 4 in A and 4 in B, but adapter_config says 8"),
        (lambda c, t: t.update({B_NAME: t[B_NAME][:, :2]}), "has rank 4 in A and 2 in B"),
        (lambda c, t: t.update({A_NAME: t[A_NAME][:, :7]}), r"has shape \(64, 7\), the base's weight \(64, 64\)"),
        (lambda c, t: t.update({A_NAME: t[A_NAME][0]}), "no matrices"),
        (lambda c, t: c.update(target_modules=["q_proj"]), "is none of its target_modules"),
        (lambda c, t: c.update(r=None), "has null as the rank of"),
        (lambda c, t: c.update(lora_alpha=float("nan")), "has NaN as the alpha of"),
        (lambda c, t: c.update(alpha_pattern={"(a+)+$": 4}), "only module names are covered"),
        (lambda c, t: t.clear(), "holds no factors"),
        (lambda c, t: c.update(modules_to_save=["norm"]) or t.update({f"{PREFIX}norms.weight": torch.ones(4)}),
         "is no part"),
        (lambda c, t: c.update(modules_to_save=["norm"]) or t.update({f"{PREFIX}model.norm.weight": torch.ones(4)}),
         r"has shape \(4,\)"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused_by_name(adapter, change, message):
    config, tensors = adapter
    change(config, tensors)
    with pytest.raises(StorageError, match=message):
        parse(config, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_lora_weights": "pissa"}, "starts inside the base.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "pissa_niter_4"}, "starts inside the base"),
        ({"init_lora_weights": "olora"}, "starts inside the base"),
        ({"init_lora_weights": "corda"}, "starts inside the base"),
        ({"init_lora_weights": "something new"}, "starts inside the base"),
        ({"peft_type": "LOHA"}, "is a LOHA adapter"),
        ({"bias": "all"}, "trains biases"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"use_something_new": True}, "use_something_new"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(adapter, change, message):
    with pytest.raises(StorageError, match=f"(?s){message}"):
        parse(adapter[0] | change, adapter[1])


def test_every_field_of_pefts_configuration_is_decided_upon():
    from dataclasses import fields

    from whet.models import adapter_source

    known = {*adapter_source._NO_EFFECT, *adapter_source._NOT_COVERED}
    assert {field.name for field in fields(LoraConfig)} <= known


def test_an_adapted_head_that_is_the_embedding_is_refused(adapter):
    config, tensors = adapter
    head = {f"{PREFIX}lm_head.lora_A.weight": torch.ones(4, 64), f"{PREFIX}lm_head.lora_B.weight": torch.ones(500, 4)}
    with pytest.raises(StorageError, match="shares with its embedding"):
        parse(config, tensors | head)


def test_norms_trained_along_replace_the_base_s(adapter):
    name = "model.layers.1.input_layernorm.weight"
    update = parse(adapter[0] | {"modules_to_save": ["norm"]}, adapter[1] | {PREFIX + name: torch.full((64,), 3.0)})
    assert list(update.replaced) == [name] and not update.unties_head


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_adapter_that_is_not_finite_is_refused(folder, adapter, value):
    config, tensors = adapter
    tensors[A_NAME] = tensors[A_NAME].clone()
    tensors[A_NAME][1, 2] = value
    write(folder, config, tensors)
    with pytest.raises(StorageError, match=r"q_proj\.lora_A\.weight holds NaN or infinity"):
        read_adapter_folder(folder)


def test_integers_are_no_weights(folder, adapter):
    write(folder, adapter[0], adapter[1] | {A_NAME: torch.zeros(4, 64, dtype=torch.int8)})
    with pytest.raises(StorageError, match=r"holds torch\.int8"):
        read_adapter_folder(folder)


class Bomb:
    """Unpickling it touches the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_a_pickle_is_never_opened(folder, has_safetensors):
    canary = folder / "canary"
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    if has_safetensors:
        read_adapter_folder(folder)
    else:
        (folder / ADAPTER_WEIGHTS).unlink()
        with pytest.raises(RecipeError, match=r"(?s)only as a pickle.*never opened.*safe_serialization"):
            read_adapter_folder(folder)
    assert not canary.exists()


@pytest.mark.parametrize("name", [ADAPTER_WEIGHTS, ADAPTER_CONFIG, "tokenizer.json"])
def test_a_link_is_not_followed(folder, tmp_path_factory, name):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / name
    elsewhere.write_text("{}", encoding="utf-8")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(StorageError, match=f"{name}: is a symbolic link"):
        read_adapter_folder(folder)


def test_links_of_the_hub_s_cache_are_files(folder):
    repository = folder / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate((ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        (folder / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert len(read_adapter_folder(snapshot).tensors) == 28


@pytest.mark.parametrize("fault", ["torn json", "a list", "torn tensors", "no config"])
def test_a_damaged_folder_is_a_storage_error(folder, fault):
    config, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if fault == "torn tensors":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif fault == "no config":
        config.unlink()
    else:
        config.write_text("{" if fault == "torn json" else "[]", encoding="utf-8")
    with pytest.raises(StorageError):
        read_adapter_folder(folder)


def test_an_empty_folder_says_what_it_should_be(tmp_path):
    with pytest.raises(RecipeError, match=r"holds no adapter_model\.safetensors"):
        read_adapter_folder(tmp_path)
