"""An adapter folder that PEFT, vLLM, SGLang and W + (alpha / r) B A by hand read as the same model.

Plain LoRA: one rank, one alpha, the scale of rsLoRA and of patterns folded in, fused layers taken apart; DoRA in PEFT's
own format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whet.errors import NonFiniteError, RecipeError
from whet.export.answers import each_logits
from whet.export.companions import write_companions, write_readme
from whet.export.draft import draft_folder, refuse_existing
from whet.export.merged import tell
from whet.export.proof import FLOAT32, ROUNDED, Reader, load_float32, prove, require, write_proof
from whet.export.request import Request
from whet.export.source import Source, open_source
from whet.models.adapter_file import LayerForm, choose_form
from whet.models.adapter_source import AdapterUpdate, LayerUpdate
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from whet.models.peft_reader import load_peft_folder

_PREFIX = "base_model.model."
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""what vLLM's --max-lora-rank takes"""


def export_adapter(request: Request) -> Path:
    """Write the run's adapter as plain LoRA for the pristine base; returns the folder, which did not exist before.

    `dtype: auto` is float32.
    """
    return _export(request, "adapter")


def export_vllm(request: Request) -> Path:
    """As `export_adapter`, refused where vLLM could not serve it, with the command that serves it in README.md."""
    return _export(request, "vllm")


def _export(request: Request, kind: str) -> Path:
    if request.dtype not in ("auto", *_DTYPES):
        raise RecipeError(f"an adapter has no dtype {request.dtype}", mend="use auto, float32 or bfloat16")
    dtype = "float32" if request.dtype == "auto" else request.dtype
    target = request.target(kind)
    refuse_existing(target)
    source = open_source(request)
    if source.update is None:
        raise RecipeError("holds a full fine-tuning, not an adapter", where=str(request.run_folder), mend="use --to hf")
    more = []
    if kind == "vllm":
        refuse_what_vllm_does_not_serve(source.update, str(request.run_folder))
    with draft_folder(target) as draft:
        config = write_adapter(draft, source, source.update, dtype)
        write_companions(draft, source)
        proof = None
        if request.is_proved:
            limits = FLOAT32 if dtype == "float32" else ROUNDED
            proof = prove(source, _readers(source, draft), draft, limits=limits)
            require(proof, target)
        if kind == "vllm":
            command = vllm_command(source.identity.id, target.name, config["r"])
            more = [f"To serve it, from the folder above this one:\n\n    {command}"]
            request.say(command)
        write_proof(draft, source, dtype, proof)
        what = f"A {'DoRA' if config['use_dora'] else 'LoRA'} adapter in {dtype}, rank {config['r']}."
        write_readme(draft, source, what, proof, *more)
    tell(request, proof)
    return target


def write_adapter(folder: Path, source: Source, update: AdapterUpdate, dtype: str) -> dict[str, Any]:
    """adapter_model.safetensors and adapter_config.json; returns the configuration."""
    assert source.adapter is not None
    form = choose_form(
        [
            LayerForm(name=_PREFIX + module, rank=layer.rank, scale=layer.scale)
            for module, layer in update.layers.items()
        ]
    )
    factors = {name: t.float() for module, layer in update.layers.items() for name, t in _factors(module, layer)}
    tensors = form.to_file(factors) | {_PREFIX + name: tensor for name, tensor in update.replaced.items()}
    plain = {name: t.detach().to(_DTYPES[dtype]).contiguous() for name, t in sorted(tensors.items())}
    for name, tensor in plain.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{name} holds NaN or infinity in {dtype}", mend="choose float32, or another run")
    save_file(plain, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": source.identity.id,
        "revision": source.identity.revision,
        "inference_mode": True,
        "r": form.rank,
        "lora_alpha": int(form.alpha) if form.alpha == int(form.alpha) else form.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": any(layer.magnitude_O is not None for layer in update.layers.values()),
        "target_modules": _targets(update, source),
        "auto_mapping": {
            "base_weights_sha256": source.identity.weights_sha256,
            "base_note": source.identity.note,
        },
    }
    config |= {k: v for k in ("modules_to_save", "ensure_weight_tying") if (v := source.adapter.config.get(k))}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return config


def _factors(module: str, layer: LayerUpdate) -> list[tuple[str, Tensor]]:
    stem = _PREFIX + module
    factors = [(f"{stem}.lora_A.weight", layer.a_RI), (f"{stem}.lora_B.weight", layer.b_OR)]
    if layer.magnitude_O is not None:
        factors.append((f"{stem}.lora_magnitude_vector", layer.magnitude_O))
    return factors


def _targets(update: AdapterUpdate, source: Source) -> list[str]:
    """The last parts of the adapted modules' names where those mean exactly these modules, else their full names."""
    short = {module.rsplit(".", 1)[-1] for module in update.layers}
    modules = [name.removesuffix(".weight") for name in source.weights.tensors]
    meant = {module for module in modules if module.rsplit(".", 1)[-1] in short}
    return sorted(short if meant == set(update.layers) else update.layers)


def _readers(source: Source, folder: Path) -> list[Reader]:
    def by_peft(texts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        return each_logits(load_peft_folder(load_float32(source.model), folder), texts)

    def by_hand(texts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        return each_logits(_add_by_hand(load_float32(source.model), folder), texts)

    readers = [Reader(name="peft", logits=by_peft)]
    if source.update is not None and not source.update.unties_head:
        readers.append(Reader(name="hand", logits=by_hand))
    return readers


@torch.no_grad()
def _add_by_hand(model: nn.Module, folder: Path) -> nn.Module:
    """W + (alpha / r) B A by two numbers of the configuration; with DoRA its rows scaled to their length."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    weights = dict(model.named_parameters())
    for name, a_RI in tensors.items():
        stem, is_factor, _ = name.partition(".lora_A.weight")
        if is_factor:
            weight_OI = weights[f"{stem.removeprefix(_PREFIX)}.weight"]
            b_OR = tensors[f"{stem}.lora_B.weight"].to(weight_OI)
            weight_OI.add_(b_OR @ a_RI.to(weight_OI), alpha=config["lora_alpha"] / config["r"])
            if config["use_dora"]:
                magnitude_O = tensors[f"{stem}.lora_magnitude_vector"].to(weight_OI)
                weight_OI.mul_((magnitude_O / weight_OI.norm(dim=1))[:, None])
        elif name.removeprefix(_PREFIX) in weights:
            weights[name.removeprefix(_PREFIX)].copy_(a_RI)
    return model


def refuse_what_vllm_does_not_serve(update: AdapterUpdate, where: str) -> None:
    """RecipeError for what vLLM's adapter loader refuses or leaves out."""
    faults = []
    if any(layer.magnitude_O is not None for layer in update.layers.values()):
        faults.append("DoRA")
    if update.replaced:
        faults.append(f"weights trained along with the adapter ({', '.join(sorted(update.replaced)[:3])})")
    if (rank := max(layer.rank for layer in update.layers.values())) > VLLM_RANKS[-1]:
        faults.append(f"rank {rank} (its largest is {VLLM_RANKS[-1]})")
    if "lm_head" in update.layers:
        faults.append("an adapted output head")
    if faults:
        raise RecipeError(
            f"vLLM does not serve {', '.join(faults)} as an adapter", where=where,
            mend="use --to hf and serve the merged model: vllm serve FOLDER",
        )  # fmt: skip


def vllm_command(base: str, name: str, rank: int) -> str:
    """What to type for vLLM to serve the adapter folder `name` of `rank`."""
    max_rank = next(choice for choice in VLLM_RANKS if choice >= rank)
    return f"vllm serve {base} --enable-lora --max-lora-rank {max_rank} --lora-modules {name}={name}"
