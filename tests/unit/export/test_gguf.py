"""The GGUF file holds the same model: transformers' own reader gets the logits of the folder back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_folders
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from whet.errors import NonFiniteError, RecipeError, StorageError
from whet.export.gguf import gguf_name, parts_of_folder, refuse_not_finite, write_gguf
from whet.models.from_gguf import convert_gguf

pytestmark = pytest.mark.slow

MODELS = {
    "gpt-2 words": (tiny_folders.chatml, {}),
    "SmolLM2": (tiny_folders.smollm, {"tie_word_embeddings": True}),
    "Llama 3.1": (tiny_folders.llama3, {"rope_parameters": tiny_folders.LLAMA31_ROPE}),
    "Llama 2 with biases": (tiny_folders.llama2, {"attention_bias": True}),
    "wide heads": (tiny_folders.smollm, {"head_dim": 32}),
    "all heads alike": (tiny_folders.smollm, {"num_key_value_heads": 4}),
}


def logits(model: torch.nn.Module, num_tokens: int) -> torch.Tensor:
    ids = torch.randint(0, num_tokens, (1, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).logits[0]


def read_back(path: Path, folder: Path) -> torch.nn.Module:
    """By transformers' reader; the config is the folder's: the reader ignores rotary factors and biases."""
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, config=AutoConfig.from_pretrained(folder), dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).eval()  # fmt: skip


def mean_kl(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float(
        torch.nn.functional.kl_div(
            found.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="batchmean"
        )
    )


@pytest.fixture
def write(tmp_path):
    def write_both(tokenizer, kind: str = "F32", **config) -> tuple[Path, Path]:
        folder = tiny_folders.write_folder(tmp_path / "model", tokenizer, **config)
        path = tmp_path / "model.gguf"
        write_gguf(parts_of_folder(folder), path, kind=kind, name="tiny")
        return folder, path

    return write_both


# BF16 keeps 8 bits of each weight, Q8_0 about 8 of the largest of 32: measured here 1.5e-5 and 1.8e-4
@pytest.mark.parametrize(("kind", "largest_kl"), [("F32", 0.0), ("BF16", 1e-4), ("Q8_0", 1e-3)])
@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_those_of_the_folder(write, name, kind, largest_kl):
    build, config = MODELS[name]
    folder, path = write(build(), kind, **config)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    num_tokens = model.config.vocab_size
    expected, found = logits(model, num_tokens), logits(read_back(path, folder), num_tokens)
    if kind == "F32":
        assert torch.equal(expected, found)
    else:
        assert 0 < mean_kl(expected, found) < largest_kl


def test_bfloat16_weights_go_into_a_bf16_file_bit_by_bit(write):
    folder, path = write(tiny_folders.smollm(), "BF16", dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert torch.equal(logits(model, 300), logits(read_back(path, folder), 300))


def test_whets_own_reader_gives_the_weight_file_back(write, tmp_path):
    folder, path = write(tiny_folders.smollm(), tie_word_embeddings=True)
    back = tmp_path / "back"
    back.mkdir()
    convert_gguf(path, back)
    before, after = load_file(folder / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rotary_factors_are_those_by_which_llama_31_slows_its_waves(write):
    from gguf import GGUFReader

    folder, path = write(tiny_folders.llama3(), head_dim=64, rope_parameters=tiny_folders.LLAMA31_ROPE)
    (factors,) = [t.data for t in GGUFReader(path).tensors if t.name == "rope_freqs.weight"]
    config = AutoConfig.from_pretrained(folder)
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 10_000.0 ** (torch.arange(0, 64, 2) / 64)
    assert {1.0, 8.0} < set(factors.tolist())
    np.testing.assert_allclose(factors, (plain / slowed).numpy(), rtol=1e-6)


def test_other_rotary_scalings_are_refused(write):
    rope = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}
    with pytest.raises(RecipeError, match="'yarn'"):
        write(tiny_folders.smollm(), rope_parameters=rope)


def test_older_configs_say_the_same(tmp_path, write):
    """transformers 4 wrote `rope_theta` and `rope_scaling` on their own."""
    import json

    from gguf import GGUFReader

    folder, path = write(tiny_folders.llama3(), rope_parameters=tiny_folders.LLAMA31_ROPE | {"rope_theta": 5e5})
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    (folder / "config.json").write_text(
        json.dumps(config | {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope})
    )
    write_gguf(parts_of_folder(folder), tmp_path / "old.gguf", kind="F32", name="tiny")
    assert path.read_bytes() == (tmp_path / "old.gguf").read_bytes()
    assert GGUFReader(path).fields["llama.rope.freq_base"].contents() == 500_000.0


def test_a_sharded_folder_gives_the_same_file(tmp_path, write):
    folder, path = write(tiny_folders.smollm())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sharded = Path(shutil.copytree(folder, tmp_path / "sharded"))
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    write_gguf(parts_of_folder(sharded), tmp_path / "sharded.gguf", kind="F32", name="tiny")
    from gguf import GGUFReader

    one, many = ({t.name: t.data for t in GGUFReader(p).tensors} for p in (path, tmp_path / "sharded.gguf"))
    assert one.keys() == many.keys()
    assert all(np.array_equal(one[name], many[name]) for name in one)


def test_rows_that_do_not_fill_blocks_stay_float32(write):
    from gguf import GGUFReader

    _, path = write(tiny_folders.smollm(), "Q8_0", intermediate_size=80)
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F32"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def _edit(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), "blk.1.ffn_up.weight is missing"),
        (lambda w: w.pop("lm_head.weight"), "output.weight is missing"),
        (lambda w: w.update({"model.layers.7.mlp.up_proj.weight": torch.ones(2, 2)}), "blk.7.ffn_up.weight is not"),
        (lambda w: w.update({"model.vision.weight": torch.ones(2, 2)}), "model.vision.weight is not"),
    ],
)
def test_a_weight_too_many_or_too_few_is_named(tmp_path, change, said):
    folder = tiny_folders.write_folder(tmp_path / "model", tiny_folders.smollm())
    _edit(folder, change)
    with pytest.raises(StorageError, match=said):
        write_gguf(parts_of_folder(folder), tmp_path / "model.gguf", kind="F32", name="tiny")


def test_names_follow_llama_cpps_own_table():
    from gguf import MODEL_ARCH, get_tensor_name_map

    table = get_tensor_name_map(MODEL_ARCH.LLAMA, 3)
    parts = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj")
    names = [f"model.layers.2.{part}" for part in (*parts, "mlp.up_proj", "mlp.down_proj", "input_layernorm")]
    for name in (*names, "model.layers.0.post_attention_layernorm", "model.embed_tokens", "model.norm", "lm_head"):
        assert gguf_name(f"{name}.weight") == f"{table.get_name(name)}.weight"


@pytest.mark.slow
@pytest.mark.smollm2
# measured on 400 tokens of English: 0, 7.4e-5 and 1.5e-3
@pytest.mark.parametrize(("kind", "largest_kl"), [("F32", 0.0), ("BF16", 5e-4), ("Q8_0", 1e-2)])
def test_the_built_in_model_survives_the_way_there_and_back(tmp_path, kind, largest_kl):
    folder = tiny_folders.built_in_model()
    path = tmp_path / "model.gguf"
    write_gguf(parts_of_folder(folder), path, kind=kind, name="SmolLM2")
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), 49_152)
    found = logits(read_back(path, folder), 49_152)
    if kind == "F32":
        assert torch.equal(expected, found)
    else:
        assert 0 < mean_kl(expected, found) < largest_kl


@pytest.mark.parametrize(
    ("kind", "largest", "too_large"),
    [("F32", 3.4e38, np.inf), ("BF16", 3.38e38, 3.4e38), ("Q8_0", 8.3e6, 8.4e6), ("F32", 1.0, np.nan)],
)
def test_numbers_that_a_file_would_hold_as_infinity_are_refused(kind, largest, too_large):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    def in_file(values):
        with np.errstate(all="ignore"):
            coded = quantize(values, GGMLQuantizationType[kind])
            return dequantize(coded, GGMLQuantizationType[kind])

    fine = np.array([[-largest, *[1.0] * 31]], dtype=np.float32)
    refuse_not_finite("w", fine, kind)
    assert np.isfinite(in_file(fine)).all()
    broken = np.array([[1.0, too_large, *[1.0] * 30]], dtype=np.float32)
    assert not np.isfinite(in_file(broken)).all()
    with pytest.raises(NonFiniteError, match=f"w holds NaN or infinity in {kind}"):
        refuse_not_finite("w", broken, kind)
