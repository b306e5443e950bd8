"""Shape of a Llama-shaped model from the header of its GGUF file; no weight and no library is read."""

from __future__ import annotations

from pathlib import Path

from whet.errors import RecipeError
from whet.models.families import ModelShape, shape_from_config
from whet.models.gguf_header import read_header

_KEYS = {
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.rope.dimension_count",
    "max_position_embeddings": "llama.context_length",
    "vocab_size": "tokenizer.ggml.tokens",
}
"""of config.json -> of the header (of the tokens: how many they are)"""


def shape_of_gguf(path: Path) -> ModelShape:
    """HubError for a damaged file, RecipeError for a model of another architecture."""
    found, tensors = read_header(path)
    if (architecture := found.get("general.architecture")) != "llama":
        raise RecipeError(f"is not a Llama-shaped model (architecture {architecture})", where=str(path))
    config = {name: found.get(key) for name, key in _KEYS.items()}
    tied = {"model_type": "llama", "tie_word_embeddings": "output.weight" not in tensors}
    return shape_from_config({**config, **tied}, where=str(path))
