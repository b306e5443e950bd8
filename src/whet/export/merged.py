"""The merged model in Hugging Face format: float32 arithmetic, one cast, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from whet.errors import RecipeError
from whet.export.answers import each_logits
from whet.export.companions import write_companions, write_readme
from whet.export.draft import draft_folder, refuse_existing
from whet.export.proof import FLOAT32, ROUNDED, Proof, Reader, load_float32, prove, require, write_proof
from whet.export.request import Request
from whet.export.source import Source, open_source
from whet.models.weight_files import write_sharded
from whet.recipe.schema import Model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export_merged(request: Request) -> Path:
    """Merge the run into its base and write the whole model; returns the folder, which did not exist before.

    `dtype: auto` keeps the format of every weight of the base.
    """
    if request.dtype not in ("auto", *_DTYPES):
        raise RecipeError(f"a merged model has no dtype {request.dtype}", mend="use auto, float32 or bfloat16")
    target = request.target("hf")
    refuse_existing(target)
    source = open_source(request)
    with draft_folder(target) as draft:
        dtype = write_merged(draft, source, request)
        proof = None
        if request.is_proved:
            limits = FLOAT32 if dtype == "float32" else ROUNDED
            proof = prove(source, [Reader(name="transformers", logits=_reread(draft))], draft, limits=limits)
            require(proof, target)
        write_proof(draft, source, dtype, proof)
        write_readme(draft, source, f"A whole model in {dtype}, the adapter merged into its base.", proof)
    tell(request, proof)
    return target


def write_merged(folder: Path, source: Source, request: Request) -> str:
    """Weights, config.json and the files beside them; returns the dtype of most weights."""
    stored = source.weights.tensors
    dtypes = {name: _DTYPES.get(request.dtype, tensor.dtype) for name, tensor in stored.items()}
    shapes = {name: (tensor.shape, dtypes[name]) for name, tensor in stored.items()}
    write_sharded(folder, shapes, source.weights.read, max_shard_bytes=request.max_shard_bytes)
    dtype = str(Counter(dtypes.values()).most_common(1)[0][0]).removeprefix("torch.")
    config = source.config | {"dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    write_companions(folder, source)
    return dtype


def _reread(folder: Path) -> Callable[[Sequence[Sequence[int]]], Iterator[Tensor]]:
    def logits(texts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        return each_logits(load_float32(Model(id=str(folder.resolve()))), texts)

    return logits


def tell(request: Request, proof: Proof | None) -> None:
    """What came out of the proof, for people."""
    if proof is None:
        request.say("not proved: --no-proof was given")
        return
    request.say(proof.sentence())
    if proof.changed_by_tuning is not None:
        request.say(f"tuning changed the most probable token at {proof.changed_by_tuning:.1%} of these positions")
