"""What is loaded is exactly what the folder holds: same weights, same tokenizer, every stop token, nothing executed."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from whet.errors import RecipeError, StorageError, WhetError
from whet.models import load
from whet.models.load import choose_dtype, load_pretrained
from whet.recipe.schema import Model

CPU = torch.device("cpu")


def load_folder(folder: Path, dtype: str = "float32", **options) -> load.LoadedModel:
    return load_pretrained(Model(id=str(folder), dtype=dtype), device=CPU, **options)


def edit_json(path: Path, *, without: tuple[str, ...] = (), **changed) -> None:
    value = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({name: kept for name, kept in value.items() if name not in without}))


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_logits_are_those_of_the_weights_in_the_file(tiny_folder):
    loaded = load_folder(tiny_folder)
    expected = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, expected(ids).logits)
    assert not loaded.model.training
    assert loaded.folder == tiny_folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_are_in_the_dtype_they_are_computed_in(tiny_folder, dtype):
    loaded = load_folder(tiny_folder, dtype)
    assert loaded.compute_dtype == getattr(torch, dtype)
    assert {weight.dtype for weight in loaded.model.parameters()} == {loaded.compute_dtype}


def test_rotary_frequencies_stay_float32_in_a_bfloat16_model(tiny_folder):
    """Rounded to 8 bits they would turn positions beyond 256 into each other."""
    assert load_folder(tiny_folder, "bfloat16").model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_attention_is_the_callers_choice(tiny_folder):
    assert load_folder(tiny_folder, attn_implementation="eager").model.config._attn_implementation == "eager"
    assert load_folder(tiny_folder).model.config._attn_implementation == "sdpa"


def test_loading_a_folder_opens_no_connection(tiny_folder, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_folder(tiny_folder)


def test_nothing_in_the_folder_is_executed(tiny_folder, tmp_path):
    """Python files, pickles and hooks that transformers knows lie ready; refused or not, none may run."""
    canary = tmp_path / "canary"
    evil = f"open({str(canary)!r}, 'w').write('executed')\nclass Model: pass\nclass Tok: pass\n"
    pickled = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    (tiny_folder / "evil.py").write_text(evil)
    (tiny_folder / "custom_generate").mkdir()
    (tiny_folder / "custom_generate" / "generate.py").write_text(evil)
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin"):
        (tiny_folder / name).write_bytes(pickled)
    load_folder(tiny_folder)
    for name in ("config.json", "tokenizer_config.json"):
        changed = Path(shutil.copytree(tiny_folder, tmp_path / f"with-{name}"))
        edit_json(changed / name, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Tok", None]})
        with pytest.raises(WhetError):
            load_folder(changed)
        edit_json(changed / "config.json", model_type="evil")
        with pytest.raises(WhetError):
            load_folder(changed)
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(WhetError):
        load_folder(tiny_folder)
    assert not canary.exists()


def test_a_weight_that_is_missing_is_not_replaced_by_random_numbers(tiny_folder):
    edit_weights(tiny_folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(StorageError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"):
        load_folder(tiny_folder)


def test_a_weight_that_nothing_uses_is_not_ignored(tiny_folder):
    def add_bias(weights):
        weights["model.layers.0.self_attn.q_proj.bias"] = torch.ones(64)

    edit_weights(tiny_folder, add_bias)
    with pytest.raises(StorageError, match=r"nothing uses the weight model\.layers\.0\.self_attn\.q_proj\.bias"):
        load_folder(tiny_folder)


def test_a_weight_of_another_shape_is_refused(tiny_folder):
    edit_json(tiny_folder / "config.json", intermediate_size=80)
    with pytest.raises(
        StorageError, match=r"down_proj\.weight has shape \(64, 96\), config\.json says \(64, 80\) \(and 5 more\)"
    ):
        load_folder(tiny_folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(tiny_folder, value):
    edit_weights(tiny_folder, lambda weights: weights["model.norm.weight"].__setitem__(3, value))
    with pytest.raises(StorageError, match=r"the weight model\.norm\.weight holds NaN or infinity"):
        load_folder(tiny_folder)


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(tiny_folder):
    def cut(weights):
        weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:250].clone()

    edit_weights(tiny_folder, cut)
    edit_json(tiny_folder / "config.json", vocab_size=250)
    with pytest.raises(RecipeError, match="the tokenizer has 263 tokens, the embedding only 250 rows"):
        load_folder(tiny_folder)


def test_a_requested_dtype_is_taken_on_any_device():
    assert choose_dtype("float32", torch.device("cuda")) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float64", CPU) == torch.float64


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        ("flags\t: fpu avx512f avx512_bf16 gfni\n", torch.bfloat16),
        ("flags\t: fpu amx_bf16 amx_tile\n", torch.bfloat16),
        ("flags\t: fpu avx2 avx512f avx512bw\n", torch.float32),
        ("bugs\t: avx512_bf16\nflags\t: fpu\n", torch.float32),
        ("Features\t: asimd bf16\n", torch.float32),
        ("", torch.float32),
        (None, torch.float32),
    ],
)
def test_auto_is_bfloat16_only_where_the_cpu_multiplies_it(tmp_path, monkeypatch, cpuinfo, dtype):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(load, "_CPUINFO", path)
    assert choose_dtype("auto", CPU) == dtype


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_on_a_gpu_asks_for_bfloat16_in_hardware(monkeypatch, has_bf16, dtype):
    """By default torch also says yes where it only emulates (before Ampere)."""

    def is_supported(including_emulation=True):
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert choose_dtype("auto", torch.device("cuda")) == dtype
