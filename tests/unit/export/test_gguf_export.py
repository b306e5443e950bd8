"""The exports `gguf` and `gguf-lora` from an adapter folder: proved, whole or absent, with the scale of rsLoRA."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import tiny_folders
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

from whet.data.templates import family_text
from whet.errors import GateError, RecipeError
from whet.export import EXPORTS, gguf_export
from whet.export.gguf_lora import write_gguf_lora
from whet.export.request import Request
from whet.models.adapter_source import AdapterUpdate, LayerUpdate
from whet.models.families import shape_from_config

pytestmark = pytest.mark.slow

IDS = torch.arange(3, 60)[None]


@pytest.fixture
def base(tmp_path) -> Path:
    return tiny_folders.write_folder(tmp_path / "base", tiny_folders.smollm(), tie_word_embeddings=True)


def save_adapter(base: Path, folder: Path, **settings) -> Path:
    """An adapter as PEFT writes it, with factors large enough to change what the model says."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "down_proj"], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
        torch.manual_seed(0)
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.data = 0.1 * torch.randn(weight.shape)
        adapted.save_pretrained(folder)
    return folder


def tuned_logits(base: Path, adapter: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, adapter).eval()(IDS).logits[0]


def request(base: Path, adapter: Path, **settings) -> Request:
    return Request(run_folder=adapter, base=str(base), say=lambda text: None, **settings)


def scale_of(adapter: Path) -> float:
    config = json.loads((adapter / "adapter_config.json").read_text())
    return config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_merged_file_says_what_base_and_adapter_say(base, tmp_path, use_rslora):
    adapter = save_adapter(base, tmp_path / "run", use_rslora=use_rslora)
    folder = EXPORTS["gguf"](request(base, adapter))
    back = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", config=AutoConfig.from_pretrained(base), dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).eval()  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(back(IDS).logits[0], tuned_logits(base, adapter), atol=1e-4, rtol=0)
    proof = json.loads((folder / "proof.json").read_text())
    assert proof["status"] == "proved"
    assert proof["tokenizer"]["end of turn"] is True
    assert folder == tmp_path / "run-gguf"


@pytest.mark.parametrize("use_rslora", [False, True])
def test_alpha_over_rank_in_the_adapter_file_is_the_true_scale(base, tmp_path, use_rslora):
    """rsLoRA's alpha as it stands would scale the update by 2 instead of 4: another model, no error."""
    adapter = save_adapter(base, tmp_path / "run", use_rslora=use_rslora)
    folder = EXPORTS["gguf-lora"](request(base, adapter))
    fields = GGUFReader(folder / "adapter.gguf").fields
    assert fields["general.type"].contents() == "adapter"
    assert fields["adapter.type"].contents() == "lora"
    assert fields["adapter.lora.alpha"].contents() / 4 == pytest.approx(scale_of(adapter))


def test_a_layer_with_another_scale_has_it_in_its_factor(base, tmp_path):
    shape = shape_from_config(json.loads((base / "config.json").read_text()))
    generator = torch.Generator().manual_seed(0)
    layers = {
        f"model.layers.{index}.mlp.down_proj": LayerUpdate(
            a_RI=torch.randn(rank, 96, generator=generator),
            b_OR=torch.randn(64, rank, generator=generator),
            scale=scale,
        )
        for index, (rank, scale) in enumerate([(4, 2.0), (8, 0.5)])
    }
    path = tmp_path / "adapter.gguf"
    write_gguf_lora(AdapterUpdate(layers=layers, replaced={}), shape, path, name="a", base_name="b")
    reader = GGUFReader(path)
    tensors = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    alpha = reader.fields["adapter.lora.alpha"].contents()
    for index, layer in enumerate(layers.values()):
        a_RI, b_OR = (tensors[f"blk.{index}.ffn_down.weight.lora_{side}"] for side in "ab")
        # llama.cpp: get_scale divides by the rank of B
        found = alpha / b_OR.shape[1] * b_OR @ a_RI
        torch.testing.assert_close(found, layer.scale * layer.b_OR @ layer.a_RI)


@pytest.mark.parametrize("kind", ["gguf", "gguf-lora"])
def test_rows_in_the_wrong_order_are_caught_by_the_proof(base, tmp_path, monkeypatch, kind):
    adapter = save_adapter(base, tmp_path / "run")
    for module in ("gguf", "gguf_lora"):
        monkeypatch.setattr(f"whet.export.{module}.pairs_from_halves", lambda values, num_heads: values)
    with pytest.raises(GateError, match="not the model that was trained"):
        EXPORTS[kind](request(base, adapter))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_another_chat_template_in_the_file_is_caught_by_the_proof(base, tmp_path, monkeypatch):
    adapter = save_adapter(base, tmp_path / "run")
    real = gguf_export.write_gguf

    def write(parts, path, **options):
        parts.tokenizer.chat_template, kept = "{{ messages }}", parts.tokenizer.chat_template
        real(parts, path, **options)
        parts.tokenizer.chat_template = kept

    monkeypatch.setattr(gguf_export, "write_gguf", write)
    with pytest.raises(GateError, match="chat template differs"):
        EXPORTS["gguf"](request(base, adapter))


def test_dora_and_weights_trained_along_have_no_place_in_an_adapter_file(base, tmp_path):
    dora = save_adapter(base, tmp_path / "dora", use_dora=True)
    with pytest.raises(RecipeError, match=r"DoRA.*\n.*--to gguf"):
        EXPORTS["gguf-lora"](request(base, dora))
    norms = save_adapter(base, tmp_path / "norms", modules_to_save=["input_layernorm"])
    with pytest.raises(RecipeError, match=r"input_layernorm.weight was trained along"):
        EXPORTS["gguf-lora"](request(base, norms))
    assert (EXPORTS["gguf"](request(base, norms)) / "model.gguf").is_file()


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "F32"), ("bfloat16", "BF16"), ("q8_0", "Q8_0")])
def test_the_format_is_the_one_asked_for(base, tmp_path, dtype, expected):
    folder = EXPORTS["gguf"](request(base, save_adapter(base, tmp_path / "run"), dtype=dtype))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(folder / "model.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == expected
    assert json.loads((folder / "proof.json").read_text())["dtype"] == expected


def test_a_format_that_gguf_adapters_have_not_is_refused(base, tmp_path):
    with pytest.raises(RecipeError, match="no dtype q8_0"):
        EXPORTS["gguf-lora"](request(base, save_adapter(base, tmp_path / "run"), dtype="q8_0"))


def test_the_modelfile_stops_at_every_stop_token(base, tmp_path):
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    said = []
    asked = Request(run_folder=save_adapter(base, tmp_path / "run"), base=str(base), say=said.append)
    folder = EXPORTS["ollama"](asked)
    text = (folder / "Modelfile").read_text()
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{ range .Messages }}<|im_start|>')
    assert 'SYSTEM """You are a helpful AI assistant."""' in text
    assert text.endswith('PARAMETER stop """<|endoftext|>"""\nPARAMETER stop """<|im_end|>"""\n')
    assert (folder / "model.gguf").is_file() and (folder / "proof.json").is_file()
    assert any("ollama create run" in line for line in said)


@pytest.mark.parametrize(("family", "trims"), [("smollm2", False), ("llama-3", True)])
def test_the_modelfile_says_where_ollama_does_not_trim(tmp_path, family, trims):
    tokenizer = tiny_folders.llama3() if trims else tiny_folders.smollm()
    tokenizer.chat_template = family_text(family)
    base = tiny_folders.write_folder(tmp_path / "base", tokenizer)
    folder = EXPORTS["ollama"](request(base, save_adapter(base, tmp_path / "run")))
    assert ("does not trim" in (folder / "Modelfile").read_text()) == trims
