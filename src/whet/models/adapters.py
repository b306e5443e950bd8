"""Which parameters train: a LoRA adapter through PEFT, or all weights. Saved names are PEFT's own.

`attach_lora` and `train_all_weights` both return a `Trainables`; nothing after this point asks which it was.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whet.errors import RecipeError, StorageError
from whet.recipe.schema import Adapter
from whet.types import ModelIdentity

ADAPTER_NAME = "default"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
FULL_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainables:
    """The parameters that train, by the names they are saved under."""

    named: dict[str, nn.Parameter]
    weights_file: str
    """safetensors file name of the result: PEFT's adapter file or a model file"""
    documents: dict[str, Any]
    """JSON files that belong beside the weights"""
    is_adapter: bool

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.named.values())

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.named)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved values in; StorageError unless names and shapes fit exactly."""
        if set(tensors) != set(self.named):
            odd = sorted(set(tensors).symmetric_difference(self.named))[:3]
            raise StorageError(f"the saved weights do not belong to this model (differ at {', '.join(odd)})")
        with torch.no_grad():
            for name, parameter in self.named.items():
                if tensors[name].shape != parameter.shape:
                    raise StorageError(f"saved {name} has shape {tuple(tensors[name].shape)}")
                parameter.copy_(tensors[name])


def linear_names(model: nn.Module) -> set[str]:
    """Last name parts of the linear layers inside the backbone (the output head excluded)."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}


def attach_lora(
    model: nn.Module,
    adapter: Adapter,
    *,
    seed: int,
    identity: ModelIdentity,
    make_dropout: Callable[[float, str], nn.Module],
) -> Trainables:
    """Wrap the target layers of `model` in PEFT's LoRA layers (in place) and freeze everything else.

    Adapter weights are float32 over a bfloat16 base (PEFT's `autocast_adapter_dtype`), A by Kaiming's uniform
    rule from a generator seeded by `seed`, B zero: the forward pass at step 0 is the base's. `make_dropout(p,
    module name)` takes the place of PEFT's dropout module. RecipeError when a target matches no layer.
    """
    from peft import LoraConfig, get_peft_model

    _refuse_what_is_not_offered(adapter)
    available = linear_names(model)
    if adapter.targets != "all-linear":
        unknown = [t for t in adapter.targets if t not in available]
        if unknown:
            raise RecipeError(
                f"adapter.targets names layers that the model does not have: {', '.join(unknown)}",
                mend=f"choose among {', '.join(sorted(available))}, or all-linear",
            )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        target_modules=sorted(available) if adapter.targets == "all-linear" else list(adapter.targets),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 still asks transformers by the attribute's old name; nothing a user could mend
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
    for name, module in wrapped.named_modules():
        if isinstance(getattr(module, "lora_dropout", None), nn.ModuleDict) and adapter.dropout > 0:
            module.lora_dropout[ADAPTER_NAME] = make_dropout(adapter.dropout, name)
    named = {n.replace(f".{ADAPTER_NAME}.", "."): p for n, p in wrapped.named_parameters() if p.requires_grad}
    return Trainables(
        named=named,
        weights_file=ADAPTER_WEIGHTS,
        documents={ADAPTER_CONFIG: _portable_config(config.to_dict(), identity)},
        is_adapter=True,
    )


def _refuse_what_is_not_offered(adapter: Adapter) -> None:
    plain = Adapter()
    for key in ("method", "init", "rslora", "ranks", "lr_ratio", "also_train"):
        value = getattr(adapter, key)
        if value != getattr(plain, key):
            raise RecipeError(f"adapter.{key} {value} is not offered yet", mend=f"leave adapter.{key} out")


def train_all_weights(model: nn.Module) -> Trainables:
    """Every weight trains, in float32 or wider (a tied head counts once)."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        parameter.requires_grad_(True)
    config = model.config.to_dict()  # type: ignore[union-attr,operator]
    config.pop("_name_or_path", None)
    return Trainables(
        named=dict(model.named_parameters()),
        weights_file=FULL_WEIGHTS,
        documents={"config.json": json.loads(json.dumps(config, default=str))},
        is_adapter=False,
    )


def _portable_config(config: dict[str, Any], identity: ModelIdentity) -> dict[str, Any]:
    """PEFT's configuration as plain JSON, naming the base by id and hash and never by a path of this machine."""

    def plain(value: Any) -> Any:
        if isinstance(value, (set, frozenset)):
            return sorted(value)
        return getattr(value, "value", str(value))

    document: dict[str, Any] = json.loads(json.dumps(config, default=plain))
    document["base_model_name_or_path"] = identity.id
    document["revision"] = identity.revision
    document["inference_mode"] = True
    # PEFT reads auto_mapping only when task_type is absent; it is the one free-form field of the format
    document["auto_mapping"] = {"base_weights_sha256": identity.weights_sha256, "base_note": identity.note}
    return document


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(adapter_config, tensors) of a PEFT folder; only JSON and safetensors are opened."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return config, load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError(f"holds no readable adapter: {error}", where=str(folder)) from error
