"""A Llama-shaped model becomes one GGUF file, tensor by tensor, by llama.cpp's conventions.

The reverse of `whet.models.from_gguf`. Memory: one tensor in float32 and its encoded form. Norms and biases stay
float32, as llama.cpp keeps them.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from whet.errors import NonFiniteError, RecipeError, StorageError
from whet.export.gguf_tokenizer import add_tokenizer
from whet.models.families import ModelShape, shape_from_config
from whet.models.folder import check_folder, weight_files
from whet.models.from_gguf import LAYER_NAMES, OUTER_NAMES
from whet.models.tokenizer import read_stop_ids, read_tokenizer
from whet.models.weight_files import list_tensors, read_tensor

Kind = Literal["F32", "BF16", "Q8_0"]

_FILE_TYPES: dict[Kind, int] = {"F32": 0, "Q8_0": 7, "BF16": 32}
_LARGEST: dict[Kind, float] = {"F32": 3.4028235e38, "BF16": 3.3895314e38, "Q8_0": 127 * 65504.0}
"""magnitude that each holds; the scale of a block of Q8_0 is a float16"""
"""`general.file_type` of the GGUF specification."""
_GGUF_LAYER_NAMES = {hf: gguf for gguf, hf in LAYER_NAMES.items()}
_GGUF_OUTER_NAMES = {hf: gguf for gguf, hf in OUTER_NAMES.items()}
_RECOMPUTED = "rotary_emb.inv_freq"
"""A buffer that old Llama 2 files hold; every reader computes it from the base frequency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """What a GGUF file is made of. Invariant: `read(name)` gives a tensor of the shape `shapes[name]`."""

    config: Mapping[str, Any]
    """config.json"""
    shapes: Mapping[str, tuple[int, ...]]
    """by Hugging Face's names; a tied output head may be among them"""
    read: Callable[[str], Tensor]
    """one weight at a time, in any number format"""
    tokenizer: Any
    stop_ids: Sequence[int]
    where: str
    """for messages"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """Where one tensor of the GGUF file comes from."""

    name: str
    hf_name: str
    shape: tuple[int, ...]
    kind: Kind
    num_heads: int | None
    """heads whose rows are reordered (query and key), else None"""


def parts_of_folder(folder: Path) -> ModelParts:
    """The model in a Hugging Face folder; RecipeError or StorageError when it is none that whet opens."""
    config = check_folder(folder)
    stored = list_tensors(weight_files(folder))
    tokenizer = read_tokenizer(folder)
    return ModelParts(
        config=config,
        shapes={name: tensor.shape for name, tensor in stored.items()},
        read=lambda name: read_tensor(stored[name]),
        tokenizer=tokenizer,
        stop_ids=read_stop_ids(folder, tokenizer),
        where=str(folder),
    )


def write_gguf(parts: ModelParts, path: Path, *, kind: Kind, name: str) -> None:
    """Write the model to `path` in F32, BF16 or Q8_0; `name` becomes `general.name`.

    RecipeError: a tokenizer, rotary scaling or shape that llama.cpp has no exact form for; StorageError: weights
    that are missing or unknown.
    """
    require_gguf()
    from gguf import GGUFWriter

    shape = shape_from_config(dict(parts.config) | {"model_type": "llama"}, where=parts.where)
    rope = _rope(parts.config, parts.where)
    tensors = _plan_tensors(parts, shape, kind)
    factors = _rope_factors(rope, shape.head_dim)
    writer = GGUFWriter(path, "llama")
    _add_hyperparameters(writer, shape, parts.config, rope, kind, name)
    add_tokenizer(writer, parts.tokenizer, parts.stop_ids, num_rows=shape.vocab, where=parts.where)
    if factors is not None:
        announce(writer, "rope_freqs.weight", factors.shape, "F32")
    for tensor in tensors:
        announce(writer, tensor.name, tensor.shape, tensor.kind)
    encoded = itertools.chain([] if factors is None else [factors], (_encode(tensor, parts.read) for tensor in tensors))
    write_announced(writer, encoded)


def announce(writer: Any, name: str, shape: tuple[int, ...], kind: Kind) -> None:
    """Say that a tensor will follow; all are announced before the first is written."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    raw = GGMLQuantizationType[kind]
    bytes_shape = quant_shape_to_byte_shape(shape, raw)
    writer.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), math.prod(bytes_shape), raw_dtype=raw)


def write_announced(writer: Any, tensors: Iterable[np.ndarray]) -> None:
    """Write header, fields and the announced tensors, one at a time, and close the file."""
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor)
    finally:
        writer.close()


def refuse_not_finite(name: str, values: np.ndarray, kind: Kind) -> None:
    """NonFiniteError where float32 `values` hold NaN or infinity, or would as numbers of `kind`."""
    peak = float(np.abs(values).max(initial=0.0))
    if not peak <= _LARGEST[kind]:
        raise NonFiniteError(
            f"{name} holds NaN or infinity in {kind} (its largest magnitude is {peak:.3g})",
            mend="choose another dtype, or another run",
        )


def require_gguf() -> None:
    """RecipeError when the package `gguf` is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise RecipeError("GGUF files need the package `gguf`", mend="pip install 'whet[export]'")


def gguf_name(hf_name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`; KeyError for a weight that GGUF has not."""
    stem, suffix = hf_name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{_GGUF_OUTER_NAMES[stem]}.{suffix}"
    index, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{int(index)}.{_GGUF_LAYER_NAMES[part]}.{suffix}"


def rotated_heads(name: str, shape: ModelShape) -> int | None:
    """Heads of a query or key projection, whose rows llama.cpp wants in another order; None for all other tensors."""
    heads = {"attn_q": shape.num_heads, "attn_k": shape.num_kv_heads}
    return heads.get(name.split(".")[-2])


def pairs_from_halves(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows in llama.cpp's order: it rotates neighbouring rows (2i, 2i+1) of a head, transformers rows (i, i+d/2)."""
    half = values.shape[0] // num_heads // 2
    return values.reshape(num_heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _rope(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of the rotary embedding, however old the config is; RecipeError for a scaling that GGUF has not."""
    rope = {"rope_theta": config.get("rope_theta", 10_000.0)}
    rope |= config.get("rope_scaling") or {}
    rope |= config.get("rope_parameters") or {}
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope["rope_type"] not in ("default", "llama3", "linear"):
        raise RecipeError(
            f"scales its rotary embedding by {rope['rope_type']!r}, which whet does not write to GGUF",
            where=where,
            mend="export with --to hf and convert with llama.cpp's own tools",
        )
    return rope


def _rope_factors(rope: Mapping[str, Any], head_dim: int) -> np.ndarray | None:
    """What each rotary frequency is divided by (Llama 3.1, "llama3" scaling), float32 [head_dim / 2]; else None.

    Long waves are slowed by `factor`, short ones kept, those between blended.
    """
    if rope["rope_type"] != "llama3":
        return None
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(rope["original_max_position_embeddings"])
    frequencies = float(rope["rope_theta"]) ** -(np.arange(0, head_dim, 2) / head_dim)
    waves_in_context = context * frequencies / (2 * math.pi)
    blend = np.clip((waves_in_context - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)


def _add_hyperparameters(
    writer: Any, shape: ModelShape, config: Mapping[str, Any], rope: Mapping[str, Any], kind: Kind, name: str
) -> None:
    from gguf import GGML_QUANT_VERSION, RopeScalingType

    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_context_length(shape.max_positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_block_count(shape.num_layers)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_vocab_size(shape.vocab)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _plan_tensors(parts: ModelParts, shape: ModelShape, kind: Kind) -> list[_Tensor]:
    """Every weight with its GGUF name; StorageError for a weight too many or too few."""
    tensors = [
        _plan_tensor(name, size, shape, kind, parts.where)
        for name, size in sorted(parts.shapes.items())
        if not name.endswith(_RECOMPUTED) and not (shape.tie_embeddings and name == "lm_head.weight")
    ]
    expected = _expected_names(shape)
    faults = sorted(expected.symmetric_difference(tensor.name for tensor in tensors))
    if faults:
        what = "is missing" if faults[0] in expected else "is not a weight of this model"
        raise StorageError(f"{faults[0]} {what}", where=parts.where, mend="export the model anew")
    return tensors


def _plan_tensor(hf_name: str, size: tuple[int, ...], shape: ModelShape, kind: Kind, where: str) -> _Tensor:
    try:
        name = gguf_name(hf_name)
    except (KeyError, ValueError) as error:
        raise StorageError(
            f"{hf_name} is not a weight of a Llama-shaped model", where=where, mend="export the model anew"
        ) from error
    # Q8_0 holds blocks of 32 values; llama.cpp keeps other widths wider too
    is_wide = len(size) == 1 or (kind == "Q8_0" and size[-1] % 32 != 0)
    num_heads = rotated_heads(name, shape)
    return _Tensor(name=name, hf_name=hf_name, shape=size, kind="F32" if is_wide else kind, num_heads=num_heads)


def _expected_names(shape: ModelShape) -> set[str]:
    outer = ["token_embd", "output_norm"] + ([] if shape.tie_embeddings else ["output"])
    biased = [name for name in LAYER_NAMES if name.startswith("attn_") and name != "attn_norm"] * shape.attention_bias
    biased += [name for name in ("ffn_gate", "ffn_up", "ffn_down") if shape.mlp_bias]
    blocks = [
        f"blk.{index}.{name}"
        for index in range(shape.num_layers)
        for name in [f"{layer}.weight" for layer in LAYER_NAMES] + [f"{layer}.bias" for layer in biased]
    ]
    return {f"{name}.weight" for name in outer} | set(blocks)


def _encode(tensor: _Tensor, read: Callable[[str], Tensor]) -> np.ndarray:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    values = read(tensor.hf_name).float().numpy()
    if tensor.num_heads is not None:
        values = pairs_from_halves(values, tensor.num_heads)
    refuse_not_finite(tensor.name, values, tensor.kind)
    encoded: np.ndarray = quantize(np.ascontiguousarray(values), GGMLQuantizationType[tensor.kind])
    return encoded
