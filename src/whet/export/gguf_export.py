"""The exports `gguf` (the merged model in one GGUF file) and `gguf-lora` (the adapter alone), proved as all are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from whet.errors import RecipeError
from whet.export import llama_cpp
from whet.export.companions import write_companions, write_readme
from whet.export.draft import draft_folder, refuse_existing
from whet.export.gguf import Kind, ModelParts, parts_of_folder, require_gguf, write_gguf
from whet.export.gguf_lora import write_gguf_lora
from whet.export.gguf_proof import LIMITS, compare_tokenizer, readers_of_lora, readers_of_model
from whet.export.merged import tell
from whet.export.proof import FLOAT32, Proof, prove, require, write_proof
from whet.export.request import Request
from whet.export.source import Source, open_source
from whet.models.families import shape_from_config

MODEL = "model.gguf"
ADAPTER = "adapter.gguf"
_KINDS: dict[str, Kind] = {"float32": "F32", "bfloat16": "BF16", "q8_0": "Q8_0"}


def export_gguf(request: Request) -> Path:
    """Write the merged model as `model.gguf`; returns the folder, which did not exist before.

    `dtype: auto` is BF16 where the base is stored in bfloat16, else F32.
    """
    return export_model(request, "gguf", lambda folder, source: None)


def export_model(request: Request, name: str, add_files: Callable[[Path, Source], None]) -> Path:
    """A GGUF file with its proof and README.md, and what `add_files` puts beside it before the proof."""
    require_gguf()
    if request.dtype not in ("auto", *_KINDS):
        raise RecipeError(f"a GGUF model has no dtype {request.dtype}", mend=f"use auto, {', '.join(_KINDS)}")
    target = request.target(name)
    refuse_existing(target)
    source = open_source(request)
    kind = _KINDS["bfloat16" if request.dtype == "auto" and _is_bfloat16(source) else "float32"]
    kind = _KINDS.get(request.dtype, kind)
    with draft_folder(target) as draft:
        write_gguf(parts_of_source(source), draft / MODEL, kind=kind, name=source.folder.resolve().name)
        (draft / "config.json").write_text(json.dumps(source.config, indent=1) + "\n", encoding="utf-8")
        write_companions(draft, source)
        add_files(draft, source)
        proof = None
        if request.is_proved:
            proof = prove(source, readers_of_model(draft / MODEL, source.config), draft, limits=LIMITS[kind])
            proof = replace(proof, tokenizer=proof.tokenizer | compare_tokenizer(source, draft / MODEL))
            require(proof, target)
        write_proof(draft, source, kind, proof)
        write_readme(draft, source, f"A whole model in one GGUF file ({kind}).", proof, _HOW_TO_LOAD)
    tell(request, proof)
    return target


_HOW_TO_LOAD = (
    f"`llama-cli -m {MODEL}` runs it. The other files are for transformers, whose GGUF reader drops the rotary scaling "
    f"of Llama 3.1: give it `config=AutoConfig.from_pretrained(FOLDER)` besides `gguf_file={MODEL!r}`."
)


def parts_of_source(source: Source) -> ModelParts:
    """The merged model, its weights made while they are read."""
    return ModelParts(
        config=source.config,
        shapes={name: stored.shape for name, stored in source.weights.tensors.items()},
        read=source.weights.read,
        tokenizer=source.tokenizer,
        stop_ids=source.stop_ids,
        where=str(source.folder),
    )


def _is_bfloat16(source: Source) -> bool:
    (dtype, _), *_ = Counter(stored.dtype for stored in source.weights.tensors.values()).most_common(1)
    return dtype == torch.bfloat16


def export_gguf_lora(request: Request) -> Path:
    """Write the adapter as `adapter.gguf` in float32; returns the folder, which did not exist before.

    Of the libraries only llama.cpp reads such files; without it the proof adds the factors of the file by hand.
    """
    require_gguf()
    if request.dtype not in ("auto", "float32"):
        raise RecipeError(f"a GGUF adapter has no dtype {request.dtype}", mend="use auto or float32")
    target = request.target("gguf-lora")
    refuse_existing(target)
    source = open_source(request)
    if source.update is None:
        raise RecipeError(
            "holds a full fine-tuning, not an adapter", where=str(request.run_folder), mend="use --to gguf"
        )
    shape = shape_from_config(source.config | {"model_type": "llama"}, where=str(source.folder))
    with draft_folder(target) as draft:
        name = source.folder.resolve().name
        write_gguf_lora(source.update, shape, draft / ADAPTER, name=name, base_name=source.identity.id)
        write_companions(draft, source)
        proof = _prove_lora(source, draft) if request.is_proved else None
        if proof is not None:
            require(proof, target)
        write_proof(draft, source, "F32", proof)
        what = "A LoRA adapter in one GGUF file (F32), for the GGUF file of its base."
        write_readme(draft, source, what, proof, f"`llama-cli -m BASE.gguf --lora {ADAPTER}` runs it.")
    tell(request, proof)
    return target


def _prove_lora(source: Source, folder: Path) -> Proof:
    with TemporaryDirectory(prefix=".base.", suffix=".tmp", dir=folder.parent) as scratch:
        base = Path(scratch) / MODEL
        if llama_cpp.is_installed():
            write_gguf(parts_of_folder(source.base.folder), base, kind="F32", name=source.identity.id)
        return prove(source, readers_of_lora(source, base, folder / ADAPTER), folder, limits=FLOAT32)
