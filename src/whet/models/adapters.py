"""Which parameters train: an adapter through PEFT, or all weights. Saved names are PEFT's own.

`attach_lora` and `train_all_weights` both return a `Trainables`; nothing after this point asks which it was.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from whet.errors import RecipeError, StorageError
from whet.models.adapter_file import FileForm, LayerForm, choose_form
from whet.models.adapter_init import START_NAME, peft_name, set_factors
from whet.models.adapter_rows import Losses
from whet.models.weight_forms import WeightsForm
from whet.recipe.schema import Adapter
from whet.types import ModelIdentity

ADAPTER_NAME = "default"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
FULL_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainables:
    """The parameters that train, by PEFT's names, and the form they are saved in."""

    named: dict[str, nn.Parameter]
    weights_file: str
    """safetensors file name of the result: PEFT's adapter file or a model file"""
    documents: dict[str, Any]
    """JSON files that belong beside the weights"""
    is_adapter: bool
    form: FileForm | None = None
    """how the adapter stands in its file; None where names and values are saved as they are"""
    starts: dict[str, Tensor] = field(default_factory=dict)
    """frozen A0 and -B0, where the adapter starts inside the base"""
    weights: dict[str, nn.Parameter] = field(default_factory=dict)
    """what the model computes with, by the same names, where `named` are masters; else empty"""

    @property
    def with_gradients(self) -> list[nn.Parameter]:
        """What a backward pass leaves gradients on."""
        return list((self.weights or self.named).values())

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.named.values())

    @property
    def all_values(self) -> dict[str, Tensor]:
        """What trains and the starts: what every rank holds alike and a checkpoint brings back."""
        return {**self.named, **self.starts}

    def tensors(self) -> dict[str, Tensor]:
        """Content of `weights_file`, which any tool can load."""
        return self.form.to_file(self.all_values) if self.form else self.all_values

    def rounded(self) -> dict[str, Tensor]:
        """The values that `tensors` holds only up to rounding; mostly none."""
        return {name: self.all_values[name] for name in self.form.rounded} if self.form else {}

    def load(self, tensors: Mapping[str, Tensor], rounded: Mapping[str, Tensor] | None = None) -> None:
        """Copy saved values in; StorageError unless names and shapes fit exactly."""
        _check_names(tensors, self.named)
        _check_names(rounded or {}, self.rounded())
        values = {**(self.form.from_file(tensors) if self.form else tensors), **(rounded or {})}
        with torch.no_grad():
            for name, target in self.all_values.items():
                if values[name].shape != target.shape:
                    raise StorageError(f"saved {name} has shape {tuple(values[name].shape)}")
                target.copy_(values[name])
            for name, weight in self.weights.items():
                weight.copy_(self.named[name])


def _check_names(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if set(saved) != set(expected):
        odd = sorted(set(saved).symmetric_difference(expected))[:3]
        raise StorageError(f"the saved weights do not belong to this model (differ at {', '.join(odd)})")


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
    losses: Losses | None = None,
    is_restored: bool = False,
) -> Trainables:
    """Wrap the target layers of `model` in PEFT's layers (in place) and freeze everything else.

    What trains is float32 over a bfloat16 base and starts by `adapter.init` from a generator seeded by `seed`; the
    forward pass at step 0 is the base's (with `init: orthogonal` up to the rounding of B A = 0). `make_dropout(p,
    module name)` takes the place of PEFT's dropout module. `losses` sends training rows through `model` for the starts
    that look at them. With `is_restored` a checkpoint brings the values, so nothing costly is computed for the start.
    RecipeError when the model has no place for what is asked.
    """
    from peft import LoraConfig, get_peft_model

    targets = _check_places(model, adapter)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        target_modules=targets,
        bias="none",
        init_lora_weights=peft_name(adapter.init),
        use_rslora=adapter.rslora,
        use_dora=adapter.method == "dora",
        rank_pattern=dict(adapter.ranks),
        modules_to_save=_also_trained(model, adapter) or None,
    )
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
        # PEFT 0.21 still asks transformers by the attribute's old name; nothing a user could mend
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
        layers = [(name, layer) for name, layer in wrapped.named_modules() if hasattr(layer, "lora_A")]
        set_factors(wrapped, layers, adapter.init, ADAPTER_NAME, losses=losses, is_restored=is_restored)
    for name, layer in layers:
        if adapter.dropout > 0:
            layer.lora_dropout[ADAPTER_NAME] = make_dropout(adapter.dropout, name)
        if adapter.method == "dora":
            _measure_magnitude(layer)
    _widen_also_trained(wrapped)
    form = choose_form([_layer_form(name, layer) for name, layer in layers])
    return Trainables(
        named={_saved_name(n): p for n, p in wrapped.named_parameters() if p.requires_grad},
        weights_file=ADAPTER_WEIGHTS,
        documents={ADAPTER_CONFIG: _portable_config(config.to_dict(), form, identity)},
        is_adapter=True,
        form=form,
        starts={n: p for n, p in wrapped.named_parameters() if f".{START_NAME}." in n},
    )


def _check_places(model: nn.Module, adapter: Adapter) -> list[str]:
    """Names of the layers to adapt, sorted; RecipeError when the model has not what `adapter` names."""
    available = linear_names(model)
    head, tied = _head_name(model), _is_tied(model)
    mend = f"choose among {', '.join(sorted(available))}, or all-linear"
    if head in adapter.targets:
        reason = (
            "is the embedding itself, and an adapter on one of the two cannot be merged into both"
            if tied
            else "is read by the loss without its layer, so an adapter on it would not train"
        )
        raise RecipeError(f"adapter.targets names the output head {head}, which {reason}", mend=mend)
    targets = sorted(available) if adapter.targets == "all-linear" else list(adapter.targets)
    if unknown := [t for t in targets if t not in available]:
        raise RecipeError(f"adapter.targets names layers that the model does not have: {', '.join(unknown)}", mend=mend)
    if idle := [name for name in adapter.ranks if name not in targets]:
        raise RecipeError(
            f"adapter.ranks names layers that get no adapter: {', '.join(idle)}",
            mend=f"choose among {', '.join(sorted(targets))}",
        )
    if tied and "embeddings" in adapter.also_train:
        raise RecipeError(
            "adapter.also_train embeddings: this model's output head is its embedding and would train or part with it",
            mend="leave embeddings out, or train all weights with adapter.method none",
        )
    return targets


def _head_name(model: nn.Module) -> str:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return next(name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module is head)


def _is_tied(model: nn.Module) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight  # type: ignore[operator]


def _also_trained(model: nn.Module, adapter: Adapter) -> list[str]:
    """Last name parts of the modules that train as a whole."""
    names = set()
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        is_norm = last.endswith("norm") and "norms" in adapter.also_train
        if is_norm or (module is model.get_input_embeddings() and "embeddings" in adapter.also_train):  # type: ignore[operator]
            names.add(last)
    return sorted(names)


def _widen_also_trained(wrapped: nn.Module) -> None:
    """Whole modules train in float32 or wider; what they put out keeps the dtype of the model."""
    from peft.utils import ModulesToSaveWrapper

    for module in wrapped.modules():
        if isinstance(module, ModulesToSaveWrapper):
            dtype = next(module.original_module.parameters()).dtype
            module.modules_to_save[ADAPTER_NAME].to(torch.promote_types(dtype, torch.float32))
            module.register_forward_hook(lambda _module, _args, out, dtype=dtype: out.to(dtype))


def _measure_magnitude(layer: Any) -> None:
    """DoRA's lengths anew from the float32 factors: PEFT measured them in the base's dtype, so that in bfloat16 the
    model would start a percent away from its base."""
    layer.lora_magnitude_vector[ADAPTER_NAME].update_layer(
        base_layer=layer.get_base_layer(),
        lora_A=layer.lora_A[ADAPTER_NAME].weight,
        lora_B=layer.lora_B[ADAPTER_NAME].weight,
        scaling=layer.scaling[ADAPTER_NAME],
    )


def _layer_form(name: str, layer: Any) -> LayerForm:
    return LayerForm(
        name=name,
        rank=layer.r[ADAPTER_NAME],
        scale=layer.scaling[ADAPTER_NAME],
        start=START_NAME if START_NAME in layer.lora_A else None,
    )


def _saved_name(name: str) -> str:
    """PEFT's name of a parameter in a file."""
    name = name.replace(f".modules_to_save.{ADAPTER_NAME}.", ".")
    name = name.replace(f".lora_magnitude_vector.{ADAPTER_NAME}.weight", ".lora_magnitude_vector")
    return name.replace(f".{ADAPTER_NAME}.", ".")


def free_all_weights(model: nn.Module, form: WeightsForm) -> None:
    """Let every weight train, in the dtype in which it is held; what shards them comes after this."""
    for parameter in model.parameters():
        if form == "wide" and parameter.dtype != _wide(parameter):
            parameter.data = parameter.data.to(_wide(parameter))
        parameter.requires_grad_(True)


def train_all_weights(model: nn.Module, form: WeightsForm = "wide") -> Trainables:
    """Every weight trains (a tied head counts once). Weights of float32 or wider need no masters and have none.

    Masters lie where the weights do: of sharded ones (after `free_all_weights`) each rank makes its own part.
    """
    free_all_weights(model, form)
    named = dict(model.named_parameters())
    masters = {}
    if form == "mastered" and any(p.dtype != _wide(p) for p in named.values()):
        masters = {name: nn.Parameter(p.detach().to(_wide(p), copy=True), False) for name, p in named.items()}
    config = model.config.to_dict()  # type: ignore[union-attr,operator]
    config.pop("_name_or_path", None)
    return Trainables(
        named=masters or named,
        weights_file=FULL_WEIGHTS,
        documents={"config.json": json.loads(json.dumps(config, default=str))},
        is_adapter=False,
        weights=named if masters else {},
    )


def _wide(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _portable_config(config: dict[str, Any], form: FileForm, identity: ModelIdentity) -> dict[str, Any]:
    """PEFT's configuration of the file as plain JSON, naming the base by id and hash and never by a path."""

    def plain(value: Any) -> Any:
        if isinstance(value, (set, frozenset)):
            return sorted(value)
        return getattr(value, "value", str(value))

    document: dict[str, Any] = json.loads(json.dumps(config, default=plain))
    document |= {"r": form.rank, "lora_alpha": form.alpha, "use_rslora": False, "rank_pattern": {}}
    # the values come from the file; another name would make PEFT decompose, and edit, the base it loads them onto
    document["init_lora_weights"] = True
    document["base_model_name_or_path"] = identity.id
    document["revision"] = identity.revision
    document["inference_mode"] = True
    # PEFT reads auto_mapping only when task_type is absent; it is the one free-form field of the format
    document["auto_mapping"] = {"base_weights_sha256": identity.weights_sha256, "base_note": identity.note}
    return document
