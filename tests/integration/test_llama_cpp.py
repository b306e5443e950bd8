"""llama.cpp itself reads what the exports write: the same tokens, the same logits, the adapter at its true scale."""

from __future__ import annotations

import pytest
import tiny_folders
import torch
from transformers import AutoModelForCausalLM

from whet.errors import GateError
from whet.export import llama_cpp
from whet.export.gguf import parts_of_folder, write_gguf
from whet.export.gguf_lora import write_gguf_lora
from whet.models.adapter_source import AdapterUpdate, LayerUpdate
from whet.models.families import shape_from_config
from whet.models.folder import read_json

TEXTS = (
    "How many clips did Natalia sell in April and May?",
    "12345 and 3.14, don't we'LL it'S\n\n\n  indented\ttext  \r\n end ",
    "the world, hello the world. hell",
    "\u00e9 \u6f22\u5b57 \U0001f642 \u00a0 x",
    " ",
    "<|im_start|>user\nhi<|im_end|>\n<|start_header_id|>12<|eot_id|>",
)
MODELS = {
    "gpt-2 words": (tiny_folders.chatml, {}),
    "SmolLM2": (tiny_folders.smollm, {"tie_word_embeddings": True}),
    "Llama 3.1": (tiny_folders.llama3, {"rope_parameters": tiny_folders.LLAMA31_ROPE}),
    "Llama 2 with biases": (tiny_folders.llama2, {"attention_bias": True}),
}
IDS = torch.randint(3, 250, (100,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(autouse=True)
def _needs_llama_cpp():
    if not llama_cpp.is_installed():
        pytest.skip("llama-cpp-python is not installed")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def mean_kl(expected: torch.Tensor, found: torch.Tensor) -> float:
    p, q = expected.double().log_softmax(-1), found.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_logits_are_those_of_the_folder(tmp_path, name):
    build, config = MODELS[name]
    folder = tiny_folders.write_folder(tmp_path / "model", build(), **config)
    parts = parts_of_folder(folder)
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    # measured: KL 4e-10 to 2e-9, 3e-5 and 4e-4 (activations are rounded too)
    for kind, largest_kl in (("F32", 1e-7), ("BF16", 1e-4), ("Q8_0", 2e-3)):
        path = tmp_path / f"{kind}.gguf"
        write_gguf(parts, path, kind=kind, name="tiny")
        reading = llama_cpp.read_gguf(path, ids=[IDS], texts=TEXTS)
        assert reading.ids == [parts.tokenizer(text)["input_ids"] for text in TEXTS]
        found = torch.from_numpy(reading.logits[0])
        assert mean_kl(expected, found) < largest_kl
        if kind == "F32":
            assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.slow
@pytest.mark.smollm2
def test_the_built_in_model_answers_as_it_does_in_transformers(tmp_path):
    folder = tiny_folders.built_in_model()
    parts = parts_of_folder(folder)
    write_gguf(parts, tmp_path / "model.gguf", kind="F32", name="SmolLM2")
    reading = llama_cpp.read_gguf(tmp_path / "model.gguf", ids=[IDS], texts=TEXTS)
    assert reading.ids == [parts.tokenizer(text)["input_ids"] for text in TEXTS]
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    found = torch.from_numpy(reading.logits[0])
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert mean_kl(expected, found) < 1e-7


@torch.no_grad()
def test_the_adapter_file_on_the_bases_file_is_base_and_adapter(tmp_path):
    """Scale 4 = 8 / sqrt(4), as of rsLoRA; on query and key too, whose rows llama.cpp keeps in another order."""
    folder = tiny_folders.write_folder(tmp_path / "model", tiny_folders.smollm(), tie_word_embeddings=True)
    write_gguf(parts_of_folder(folder), tmp_path / "model.gguf", kind="F32", name="tiny")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    weights = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"):
        module = f"model.layers.1.{part}"
        rows, columns = weights[f"{module}.weight"].shape
        a_RI, b_OR = (0.1 * torch.randn(shape, generator=generator) for shape in ((4, columns), (rows, 4)))
        layers[module] = LayerUpdate(a_RI=a_RI, b_OR=b_OR, scale=4.0)
    shape = shape_from_config(read_json(folder / "config.json"))
    lora = tmp_path / "adapter.gguf"
    write_gguf_lora(AdapterUpdate(layers=layers, replaced={}), shape, lora, name="a", base_name="b")
    before = logits(model)
    for module, layer in layers.items():
        weights[f"{module}.weight"].add_(layer.scale * layer.b_OR @ layer.a_RI)
    expected = logits(model)
    assert (before.argmax(-1) != expected.argmax(-1)).float().mean() > 0.05
    (found,) = llama_cpp.read_gguf(tmp_path / "model.gguf", lora=lora, ids=[IDS]).logits
    assert mean_kl(expected, torch.from_numpy(found)) < 1e-7
    assert torch.equal(torch.from_numpy(found).argmax(-1), expected.argmax(-1))


def test_a_file_that_llama_cpp_does_not_open_is_an_error_with_its_words(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(GateError, match=r"llama\.cpp cannot use the file"):
        llama_cpp.read_gguf(broken, texts=["a"])
