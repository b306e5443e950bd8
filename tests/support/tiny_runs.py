"""A tiny base model on the disk and finished runs over it, written by the code that writes real ones."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import tiny_tokenizers
import torch
from safetensors.torch import save_file
from tiny import attach, perturb, tiny_llama
from torch import nn
from transformers import LlamaForCausalLM

from whet.models.adapters import ADAPTER_CONFIG
from whet.models.source import find_model
from whet.recipe.schema import Adapter, Model

RECIPE = """
name: tiny
output: {output}
model: {{id: {base}, dtype: float32}}
adapter: {{method: {method}}}
data: {{train: [{{source: rows.jsonl}}]}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyRun:
    """A finished run, and the model it ended with."""

    folder: Path
    base: Path
    live: nn.Module


def write_base(folder: Path, *, dtype: torch.dtype = torch.float32, is_tied: bool = True) -> Path:
    """The tiny Llama with a tokenizer like SmolLM2's; its stop tokens are two."""
    model = tiny_llama(dtype, is_tied=is_tied)
    model.config.eos_token_id = [2, 0]
    model.generation_config.eos_token_id = [2, 0]
    model.save_pretrained(folder)
    tiny_tokenizers.build_chatml().save_pretrained(folder)
    return folder


def write_adapter_run(folder: Path, base: Path, adapter: Adapter, *, size: float = 0.05) -> TinyRun:
    """A run of `adapter` over the tiny base, its trained tensors moved by `size` as training would."""
    identity = find_model(Model(id=str(base))).identity
    model = read_base(base)
    trainables = attach(model, adapter)
    perturb(trainables, size=size)
    trainables.documents[ADAPTER_CONFIG]["auto_mapping"]["base_weights_sha256"] = identity.weights_sha256
    folder.mkdir(parents=True)
    save_file({n: t.detach().contiguous() for n, t in trainables.tensors().items()}, folder / trainables.weights_file)
    for name, document in trainables.documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    _write_rest(folder, base, adapter.method)
    return TinyRun(folder=folder, base=base, live=model.eval())


def write_full_run(folder: Path, base: Path) -> TinyRun:
    """A full fine-tuning of the tiny base."""
    model = read_base(base)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    folder.mkdir(parents=True)
    save_file({n: p.detach().clone() for n, p in model.named_parameters()}, folder / "model.safetensors")
    shutil.copy(base / "config.json", folder)
    _write_rest(folder, base, "none")
    return TinyRun(folder=folder, base=base, live=model.eval())


def _write_rest(folder: Path, base: Path, method: str) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.format(output=folder, base=base, method=method), encoding="utf-8")
    tiny_tokenizers.build_chatml().save_pretrained(folder)
    shutil.copy(base / "generation_config.json", folder)


def read_base(base: Path) -> LlamaForCausalLM:
    """The base in float32, as transformers reads it."""
    return LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
