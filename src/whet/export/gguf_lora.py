"""An adapter as a GGUF file that llama.cpp and Ollama put on the base's GGUF: W + (alpha / r) B A.

llama.cpp reads one alpha for all layers and divides it by the rank of each layer's B; it knows nothing of
rank-stabilised scales. So alpha makes that quotient the adapter's true scale; a layer with another scale has it in B.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from whet.errors import RecipeError, StorageError
from whet.export.gguf import (
    announce,
    gguf_name,
    pairs_from_halves,
    refuse_not_finite,
    require_gguf,
    rotated_heads,
    write_announced,
)
from whet.models.adapter_source import AdapterUpdate, LayerUpdate
from whet.models.families import ModelShape


def write_gguf_lora(update: AdapterUpdate, shape: ModelShape, path: Path, *, name: str, base_name: str) -> None:
    """Write the factors of `update` in float32, `<weight>.lora_a` [r, in] and `<weight>.lora_b` [out, r].

    RecipeError for what the format does not hold: DoRA's magnitudes, weights trained along with the adapter.
    """
    require_gguf()
    from gguf import GGUFWriter

    _check_form(update)
    layers = {f"{module}.weight": layer for module, layer in update.layers.items()}
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base_name)
    writer.add_string("adapter.type", "lora")
    alpha = max(layer.scale * layer.rank for layer in layers.values())
    writer.add_float32("adapter.lora.alpha", alpha)
    for weight, layer in layers.items():
        stem = _gguf_name(weight)
        announce(writer, f"{stem}.lora_a", tuple(layer.a_RI.shape), "F32")
        announce(writer, f"{stem}.lora_b", tuple(layer.b_OR.shape), "F32")
    write_announced(writer, _factors(layers, shape, alpha))


def _check_form(update: AdapterUpdate) -> None:
    for module, layer in update.layers.items():
        if layer.magnitude_O is not None:
            raise RecipeError(
                f"{module} is a DoRA layer; a GGUF adapter holds plain LoRA only",
                mend="export the merged model: --to gguf",
            )
    if update.replaced:
        raise RecipeError(
            f"{next(iter(update.replaced))} was trained along with the adapter; a GGUF adapter holds LoRA factors only",
            mend="export the merged model: --to gguf",
        )


def _gguf_name(weight: str) -> str:
    try:
        return gguf_name(weight)
    except (KeyError, ValueError) as error:
        raise StorageError(f"{weight} is not a weight of a Llama-shaped model") from error


def _factors(layers: dict[str, LayerUpdate], shape: ModelShape, alpha: float) -> Iterator[np.ndarray]:
    """A and B of each layer; the rows of B follow the rows of the weight."""
    for weight, layer in layers.items():
        a_RI = np.ascontiguousarray(layer.a_RI.float().numpy())
        refuse_not_finite(f"{weight} (its A)", a_RI, "F32")
        yield a_RI
        factor = layer.scale * layer.rank / alpha
        b_OR = (layer.b_OR.to(torch.float64) * factor).float().numpy()
        refuse_not_finite(f"{weight} (its B)", b_OR, "F32")
        num_heads = rotated_heads(gguf_name(weight), shape)
        yield np.ascontiguousarray(b_OR if num_heads is None else pairs_from_halves(b_OR, num_heads))
