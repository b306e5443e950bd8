"""Targets of the fuzzer: files of models and adapters that anybody may have made."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fuzz_inputs import parts_of
from fuzz_targets import Parser

from whet.errors import WhetError

_BASE = {
    "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 12,
    "tie_word_embeddings": True,
}  # fmt: skip
_SHAPES = {
    "model.embed_tokens.weight": (32, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
}
_MOST_NUMBERS = 1 << 20


def gguf(scratch: Path) -> Parser:
    from whet.models.from_gguf import convert_gguf

    path, folder = scratch / "model.gguf", scratch / "converted"
    folder.mkdir()

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        convert_gguf(path, folder)

    return parse


def adapter(scratch: Path) -> Parser:
    from whet.models.adapter_source import check_fits, parse_adapter, read_adapter_folder

    def parse(data: bytes) -> None:
        config, weights = parts_of(data, 2)
        (scratch / "adapter_config.json").write_bytes(config)
        (scratch / "adapter_model.safetensors").write_bytes(weights)
        found = read_adapter_folder(scratch)
        update = parse_adapter(found.config, found.tensors, _BASE)
        check_fits(update, _SHAPES, found.config)

    return parse


def weights(scratch: Path) -> Parser:
    import math

    from whet.models.folder import weight_files
    from whet.models.weight_files import list_tensors, read_tensor

    def parse(data: bytes) -> None:
        files = []
        for number, part in enumerate(parts_of(data, 2)):
            if part:
                files.append(scratch / f"weights-{number}.safetensors")
                files[-1].write_bytes(part)
        for stored in list_tensors(tuple(files)).values():
            if math.prod(stored.shape) < _MOST_NUMBERS:
                read_tensor(stored)
        (scratch / "model.safetensors").write_bytes(data)
        weight_files(scratch)

    return parse


def model_folder(scratch: Path) -> Parser:
    from whet.models.families import find_shape
    from whet.models.folder import check_folder, weight_files

    names = ("config.json", "tokenizer_config.json", "generation_config.json", "model.safetensors.index.json")

    def parse(data: bytes) -> None:
        for name, part in zip(names, parts_of(data, len(names)), strict=True):
            (scratch / name).unlink(missing_ok=True)
            if part:
                (scratch / name).write_bytes(part)
        with suppress(WhetError):
            check_folder(scratch)
        with suppress(WhetError):
            find_shape(str(scratch))
        weight_files(scratch)

    return parse
