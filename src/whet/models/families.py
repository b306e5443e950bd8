"""Shapes of Llama-like models and the arithmetic on them: weights and LoRA weights counted without loading any.

Torch-free. Gated models resolve offline from `KNOWN`; any other model from its own config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from whet import json_text
from whet.errors import RecipeError
from whet.recipe.schema import STARTS_INSIDE_BASE, Adapter

LLAMA_SHAPED = ("llama",)
"""Values of `model_type` in config.json that name this architecture: Llama 1-3, SmolLM2, Nemotron-Nano v1."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of one block; `all-linear` means these."""
_LARGEST_SIZE = 1 << 32
_SIZES_WITH_DEFAULTS = ("num_key_value_heads", "head_dim", "max_position_embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that decide how many weights a Llama-shaped model has."""

    family: str
    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    """rows of the embedding, padding rows included"""
    max_positions: int
    """longest sequence the model was made for, in tokens"""
    tie_embeddings: bool
    """Whether the output head is the embedding itself."""
    attention_bias: bool = False
    mlp_bias: bool = False

    def projection_sizes(self) -> dict[str, tuple[int, int]]:
        """Name -> (inputs, outputs) of the linear layers of one block."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, q),
            "k_proj": (self.hidden, kv),
            "v_proj": (self.hidden, kv),
            "o_proj": (q, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }


def num_parameters(shape: ModelShape) -> int:
    """All weights of the model; a tied output head is counted once."""
    sizes = shape.projection_sizes()
    biased = PROJECTIONS[:4] * shape.attention_bias + PROJECTIONS[4:] * shape.mlp_bias
    block = sum(d_in * d_out for d_in, d_out in sizes.values()) + sum(sizes[name][1] for name in biased)
    block += 2 * shape.hidden  # the two norms
    embeddings = shape.vocab * shape.hidden * (1 if shape.tie_embeddings else 2)
    return embeddings + shape.num_layers * block + shape.hidden


def num_lora_parameters(shape: ModelShape, rank: int, targets: Literal["all-linear"] | Sequence[str]) -> int:
    """Weights of a LoRA adapter: layers x rank x sum(inputs + outputs) over the targets. RecipeError on other names."""
    sizes = _target_sizes(shape, targets)
    return shape.num_layers * rank * sum(sum(size) for size in sizes.values())


def num_adapter_parameters(shape: ModelShape, adapter: Adapter) -> tuple[int, int]:
    """(weights that train, weights in the adapter file). RecipeError when the model has no place for the adapter.

    The file has one rank for all layers, and twice that where the adapter starts inside the base.
    """
    sizes = _target_sizes(shape, adapter.targets)
    if idle := [name for name in adapter.ranks if name not in sizes]:
        raise RecipeError(
            f"names layers that get no adapter: {', '.join(idle)}",
            where="adapter.ranks",
            mend=f"choose from {', '.join(sizes)}",
        )
    if "embeddings" in adapter.also_train and shape.tie_embeddings:
        raise RecipeError(
            "embeddings cannot train along: the output head of this model is its embedding",
            where="adapter.also_train",
            mend="leave embeddings out, or train all weights with adapter.method none",
        )
    ranks = {name: adapter.ranks.get(name, adapter.rank) for name in sizes}
    factors = sum(ranks[name] * sum(size) for name, size in sizes.items())
    file_rank = max(ranks.values()) * (2 if adapter.init in STARTS_INSIDE_BASE else 1)
    lengths = sum(outputs for _, outputs in sizes.values()) if adapter.method == "dora" else 0
    rest = shape.num_layers * lengths
    if "norms" in adapter.also_train:
        rest += (2 * shape.num_layers + 1) * shape.hidden
    if "embeddings" in adapter.also_train:
        rest += shape.vocab * shape.hidden
    return shape.num_layers * factors + rest, num_lora_parameters(shape, file_rank, adapter.targets) + rest


def _target_sizes(shape: ModelShape, targets: Literal["all-linear"] | Sequence[str]) -> dict[str, tuple[int, int]]:
    sizes = shape.projection_sizes()
    names = PROJECTIONS if targets == "all-linear" else tuple(dict.fromkeys(targets))
    unknown = [name for name in names if name not in sizes]
    if unknown:
        raise RecipeError(
            f"{shape.family} blocks have no linear layer {', '.join(unknown)}",
            where="adapter.targets",
            mend=f"choose from {', '.join(PROJECTIONS)}, or write all-linear",
        )
    return {name: sizes[name] for name in names}


def shape_from_config(config: Mapping[str, Any], *, where: str = "config.json") -> ModelShape:
    """Shape of a Hugging Face config.json that is Llama-shaped; RecipeError for another architecture."""
    model_type = config.get("model_type")
    if model_type not in LLAMA_SHAPED:
        listed = config.get("architectures")
        named = ", ".join(map(str, listed)) if listed and isinstance(listed, list) else "no architecture"
        raise RecipeError(
            f"is not a Llama-shaped model (model_type {model_type}, {named})",
            where=where,
            mend=f"whet tunes models with model_type {' or '.join(LLAMA_SHAPED)}: Llama, SmolLM2, Nemotron-Nano v1",
        )
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    missing = [key for key in needed if not _is_size(config.get(key))]
    missing += [key for key in _SIZES_WITH_DEFAULTS if config.get(key) is not None and not _is_size(config[key])]
    if missing:
        raise RecipeError(
            f"lacks {', '.join(missing)} (a whole number above 0)",
            where=where,
            mend="take the config.json from the hub again",
        )
    heads = config["num_attention_heads"]
    return ModelShape(
        family=model_type,
        num_layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        # defaults of transformers' LlamaConfig
        max_positions=config.get("max_position_embeddings") or 2048,
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST_SIZE


def find_shape(model_id: str) -> ModelShape | None:
    """Shape by hub id, built-in name, local folder or GGUF file; None when it cannot be known without the hub."""
    if model_id in KNOWN:
        return KNOWN[model_id]
    if model_id.endswith(".gguf") and Path(model_id).is_file():
        from whet.models.gguf_shape import shape_of_gguf

        return shape_of_gguf(Path(model_id))
    file = Path(model_id) / "config.json"
    if not file.is_file():
        return None
    try:
        config = json_text.read_json(file.read_bytes())
    except ValueError as error:
        raise RecipeError(f"is not JSON ({error})", where=str(file)) from error
    if not isinstance(config, dict):
        raise RecipeError("is not a JSON object", where=str(file))
    return shape_from_config(config, where=str(file))


_SMOLLM2_135M = ModelShape(
    family="smollm2",
    num_layers=30,
    hidden=576,
    intermediate=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab=49_152,
    max_positions=8192,
    tie_embeddings=True,
)
_SMOLLM2_360M = replace(_SMOLLM2_135M, num_layers=32, hidden=960, intermediate=2560, num_heads=15, num_kv_heads=5)
_SMOLLM2_1_7B = replace(_SMOLLM2_135M, num_layers=24, hidden=2048, intermediate=8192, num_heads=32, num_kv_heads=32)
_LLAMA_3_8B = ModelShape(
    family="llama-3",
    num_layers=32,
    hidden=4096,
    intermediate=14_336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab=128_256,
    max_positions=8192,
    tie_embeddings=False,
)
_LLAMA_3_70B = replace(_LLAMA_3_8B, num_layers=80, hidden=8192, intermediate=28_672, num_heads=64)
_LLAMA_31_8B = replace(_LLAMA_3_8B, family="llama-3.1", max_positions=131_072)
_LLAMA_31_70B = replace(_LLAMA_3_70B, family="llama-3.1", max_positions=131_072)
_LLAMA_32_1B = replace(
    _LLAMA_31_8B,
    family="llama-3.2",
    num_layers=16,
    hidden=2048,
    intermediate=8192,
    head_dim=64,
    tie_embeddings=True,
)
_LLAMA_32_3B = replace(
    _LLAMA_31_8B, family="llama-3.2", num_layers=28, hidden=3072, intermediate=8192, num_heads=24, tie_embeddings=True
)

KNOWN: dict[str, ModelShape] = {
    "smollm2-135m-instruct": _SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M": _SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-360M": _SMOLLM2_360M,
    "HuggingFaceTB/SmolLM2-360M-Instruct": _SMOLLM2_360M,
    "HuggingFaceTB/SmolLM2-1.7B": _SMOLLM2_1_7B,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": _SMOLLM2_1_7B,
    "meta-llama/Meta-Llama-3-8B": _LLAMA_3_8B,
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA_3_8B,
    "meta-llama/Meta-Llama-3-70B": _LLAMA_3_70B,
    "meta-llama/Meta-Llama-3-70B-Instruct": _LLAMA_3_70B,
    "meta-llama/Llama-3.1-8B": _LLAMA_31_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_31_8B,
    "meta-llama/Meta-Llama-3.1-8B": _LLAMA_31_8B,
    "meta-llama/Meta-Llama-3.1-8B-Instruct": _LLAMA_31_8B,
    "meta-llama/Llama-3.1-70B": _LLAMA_31_70B,
    "meta-llama/Llama-3.1-70B-Instruct": _LLAMA_31_70B,
    "meta-llama/Llama-3.3-70B-Instruct": _LLAMA_31_70B,
    "meta-llama/Llama-3.2-1B": _LLAMA_32_1B,
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA_32_1B,
    "meta-llama/Llama-3.2-3B": _LLAMA_32_3B,
    "meta-llama/Llama-3.2-3B-Instruct": _LLAMA_32_3B,
    "nvidia/Llama-3.1-Nemotron-Nano-8B-v1": replace(_LLAMA_31_8B, family="nemotron-nano"),
}
"""Hub id or built-in name -> shape."""
