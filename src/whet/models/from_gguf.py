"""A GGUF file of a Llama-shaped model becomes a Hugging Face folder: exact float32 weights, tokenizer, configs.

Done with `gguf`, `tokenizers` and `safetensors` alone: the bytes that come out depend on the GGUF file and on
nothing else (no library default, no transformers version), so everybody's converted model has one hash.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import HubError, RecipeError
from whet.models.gguf_header import check_gguf

WEIGHTS_NAME = "model.safetensors"

OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3
"""`token_type` of tokens that only a template writes (GGUF specification, tokenizer.ggml.token_type)."""
_NOT_SUCH_A_MODEL = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError)
"""what a missing, doubled or senseless entry comes out as, here and in the package `gguf`"""


def convert_gguf(gguf_path: Path, folder: Path) -> None:
    """Write `model.safetensors`, `config.json`, `generation_config.json` and the tokenizer files into `folder`.

    HubError where the file is damaged, or is of another kind of model.
    """
    check_gguf(gguf_path, _block_sizes)
    try:
        _convert(gguf_path, folder)
    except _NOT_SUCH_A_MODEL as error:
        raise HubError(
            f"holds no whole Llama-shaped model ({type(error).__name__}: {str(error)[:200]})",
            where=str(gguf_path),
            mend="fetch it anew",
        ) from error


def _convert(gguf_path: Path, folder: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(gguf_path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    kind = metadata.get("general.architecture"), metadata.get("tokenizer.ggml.pre")
    if kind != ("llama", "smollm"):
        raise HubError(
            f"not a Llama-shaped model with SmolLM's tokenizer (architecture {kind[0]!r}, pre-tokenizer {kind[1]!r})",
            where=str(gguf_path),
            mend="convert it to safetensors with the tools of its maker and name the folder as model.id",
        )
    weights = _weights(reader, num_heads=_heads(metadata))
    _write_weights(folder / WEIGHTS_NAME, weights)
    _write_json(folder / "config.json", _config(metadata, is_tied="lm_head.weight" not in weights))
    _write_json(folder / "generation_config.json", _special_ids(metadata))
    _write_tokenizer(folder, metadata)


def _block_sizes(kind: int) -> tuple[int, int]:
    """Numbers and bytes of a block of a tensor type."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType(kind)]


def require_gguf() -> None:
    """RecipeError when the package `gguf` is not installed: said before anything is downloaded."""
    if importlib.util.find_spec("gguf") is None:
        raise RecipeError(
            "the built-in model needs the package `gguf` for its one-time conversion",
            mend="pip install 'whet[demo]'",
        )


def _heads(metadata: dict[str, Any]) -> dict[str, int]:
    return {
        "attn_q": metadata["llama.attention.head_count"],
        "attn_k": metadata["llama.attention.head_count_kv"],
    }


def _weights(reader: Any, *, num_heads: dict[str, int]) -> dict[str, np.ndarray]:
    from gguf.quants import dequantize

    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        part = tensor.name.split(".")[-2]
        if part in num_heads:
            values = halves_from_pairs(values, num_heads[part])
        weights[hf_name(tensor.name)] = np.ascontiguousarray(values)
    return dict(sorted(weights.items()))


def hf_name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    parts = gguf_name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return f"{OUTER_NAMES[parts[0]]}.{parts[1]}"


def halves_from_pairs(weight_OI: np.ndarray, num_heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering: it rotates neighbouring rows (2i, 2i+1) of a head, transformers rows (i, i+d/2)."""
    num_rows, num_columns = weight_OI.shape
    half = num_rows // num_heads // 2
    return weight_OI.reshape(num_heads, half, 2, num_columns).swapaxes(1, 2).reshape(num_rows, num_columns)


def _write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library turns an OSError into text: "... (os error 28)".
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _config(metadata: dict[str, Any], *, is_tied: bool) -> dict[str, Any]:
    llama = {name.removeprefix("llama."): value for name, value in metadata.items() if name.startswith("llama.")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": llama["embedding_length"],
        "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"],
        "num_attention_heads": llama["attention.head_count"],
        "num_key_value_heads": llama["attention.head_count_kv"],
        "head_dim": llama["rope.dimension_count"],
        "max_position_embeddings": llama["context_length"],
        "rope_theta": _shortest(llama["rope.freq_base"]),
        "rms_norm_eps": _shortest(llama["attention.layer_norm_rms_epsilon"]),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": is_tied,
        "dtype": "float32",
        **_special_ids(metadata),
    }


def _shortest(value: float) -> float:
    """The decimal a person wrote: the file keeps float32, so 1e-05 arrives as 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _special_ids(metadata: dict[str, Any]) -> dict[str, int]:
    return {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def _write_tokenizer(folder: Path, metadata: dict[str, Any]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [_pair(merge, vocab) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    # `smollm`: every digit is a token of its own. Without this step "12345" becomes other tokens than in pretraining.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    special = {name.removesuffix("_token_id"): tokens[i] for name, i in _special_ids(metadata).items()}
    _write_json(
        folder / "tokenizer_config.json",
        {
            # The generic class takes tokenizer.json as it is; model classes rebuild it and lose the digit splitting.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": special["bos"],
            "eos_token": special["eos"],
            "pad_token": special["pad"],
            "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
            "model_max_length": metadata["llama.context_length"],
            "clean_up_tokenization_spaces": False,
        },
    )
    (folder / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"], encoding="utf-8")


def _pair(merge: str, vocab: dict[str, int]) -> tuple[str, str]:
    """The two tokens of a merge; ValueError where it joins what the vocabulary does not have, which the library reports
    as a bare Exception."""
    first, second = merge.split(" ")
    if not {first, second, first + second} <= vocab.keys():
        raise ValueError(f"the merge {merge[:40]!r} is of other tokens")
    return first, second


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
