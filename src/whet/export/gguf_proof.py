"""Who reads a GGUF file back for the proof: transformers' own reader, and llama.cpp where it is installed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whet.export import llama_cpp
from whet.export.answers import logits_of
from whet.export.gguf import Kind
from whet.export.prompts import PLAIN, QUESTIONS
from whet.export.proof import FLOAT32, ROUNDED, Limits, Reader, load_float32
from whet.export.source import Source
from whet.models.from_gguf import halves_from_pairs, hf_name

LIMITS: dict[Kind, Limits] = {"F32": FLOAT32, "BF16": ROUNDED, "Q8_0": Limits(mean_kl=2e-2)}
"""Measured on SmolLM2-135M (400 tokens of English): F32 9e-5 as the largest logit difference in llama.cpp and 0 in
transformers; BF16 a mean KL of 1.8e-4 and 0.7e-4; Q8_0 5.4e-3 and 1.5e-3, as llama.cpp rounds the activations too."""


def readers_of_model(path: Path, config: dict[str, Any]) -> list[Reader]:
    """Readers of a whole model; `config` is its config.json, of which transformers' reader drops the rotary scaling."""

    def by_transformers(texts: Sequence[Sequence[int]]) -> list[Tensor]:
        from transformers import AutoModelForCausalLM, GgufConfig, LlamaConfig

        with redirect_stderr(io.StringIO()):  # a progress bar that has no switch
            model: Any = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                config=LlamaConfig(**config),
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
                trust_remote_code=False,
            )
        return logits_of(model.eval(), texts)

    found = [Reader(name="transformers", logits=by_transformers)]
    return found + ([_llama_cpp(path)] if llama_cpp.is_installed() else [])


def readers_of_lora(source: Source, base: Path, lora: Path) -> list[Reader]:
    """Readers of an adapter file: by hand, and llama.cpp with it on `base`, the GGUF file of the base."""

    def by_hand(texts: Sequence[Sequence[int]]) -> list[Tensor]:
        return logits_of(_add_by_hand(load_float32(source.model), source.config, lora), texts)

    found = [Reader(name="hand", logits=by_hand)]
    return found + ([_llama_cpp(base, lora)] if llama_cpp.is_installed() else [])


@torch.no_grad()
def _add_by_hand(model: nn.Module, config: dict[str, Any], lora: Path) -> nn.Module:
    """W + (alpha / rows of A) B A, with the query and key rows of B put back into transformers' order."""
    from gguf import GGUFReader

    reader = GGUFReader(lora)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    factors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = dict(model.named_parameters())
    for name in {name.rpartition(".")[0] for name in factors}:
        a_RI, b_OR = factors[f"{name}.lora_a"], factors[f"{name}.lora_b"]
        if (part := name.split(".")[-2]) in heads:
            b_OR = halves_from_pairs(b_OR, heads[part])
        weights[hf_name(name)].add_(torch.from_numpy(b_OR @ a_RI), alpha=alpha / len(a_RI))
    return model


def _llama_cpp(model: Path, lora: Path | None = None) -> Reader:
    def logits(texts: Sequence[Sequence[int]]) -> list[Tensor]:
        return [torch.from_numpy(logits_TV) for logits_TV in llama_cpp.read_gguf(model, lora=lora, ids=texts).logits]

    return Reader(name="llama.cpp", logits=logits)


def compare_tokenizer(source: Source, path: Path) -> dict[str, bool]:
    """Tokenizer fields of the GGUF file against the source's tokenizer; by llama.cpp also the tokens of texts."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    stated = {
        name: field.contents()
        for name, field in fields.items()
        if name.startswith("tokenizer.") and not name.endswith(("tokens", "merges", "scores", "token_type"))
    }
    ours = source.tokenizer
    ends = {stated.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")} - {None}
    equal = {
        "beginning of sequence": stated.get("tokenizer.ggml.bos_token_id") == ours.bos_token_id,
        "end of sequence": stated["tokenizer.ggml.eos_token_id"] == ours.eos_token_id,
        "end of turn": ends <= set(source.stop_ids),
        "chat template": stated.get("tokenizer.chat_template")
        == (ours.get_chat_template() if ours.chat_template else None),
    }
    if llama_cpp.is_installed():
        texts = PLAIN + QUESTIONS
        expected = [ours(text)["input_ids"] for text in texts]
        equal["encoding of text by llama.cpp"] = llama_cpp.read_gguf(path, texts=texts).ids == expected
    return equal
