"""Model and tokenizer, ready to train or to answer, from a built-in name, a local folder or the hub.

Only safetensors are opened and no code out of a model folder runs. The weights go straight into the number
format they are computed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet.errors import RecipeError, StorageError
from whet.models import automodel
from whet.models.quantize import BY_BITSANDBYTES, quantize_linears, require_quantize
from whet.models.source import ModelSource, find_model
from whet.models.tokenizer import read_stop_ids, read_tokenizer
from whet.recipe.schema import Model
from whet.types import ModelIdentity

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
Loader = Literal["transformers", "nemo_automodel"]
_CPUINFO = Path("/proc/cpuinfo")
_LINEARS = tuple(f"self_attn.{name}_proj" for name in "qkvo") + tuple(
    f"mlp.{name}_proj" for name in ("gate", "up", "down")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer. Invariant: `identity` names exactly the weights in `model`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    """Has a pad token; `chat_template` is None when the model brings none."""
    identity: ModelIdentity
    folder: Path
    compute_dtype: torch.dtype
    stop_ids: tuple[int, ...]
    """Every token that ends an answer, sorted."""


def load_pretrained(
    model: Model, *, device: torch.device, attn_implementation: str = "sdpa", loader: Loader = "transformers"
) -> LoadedModel:
    """Load what `model` names onto `device`; with another `loader` than transformers the same weights come from there.

    RecipeError: not a model whet can use; StorageError: damaged files; HubError: not fetched or not verified.
    """
    require_quantize(model.quantize, model.dtype)
    if loader == "nemo_automodel":
        automodel.require_automodel(device)
    source = find_model(model)
    dtype = choose_dtype(model.dtype, device)
    tokenizer = read_tokenizer(source.folder)
    is_quantized = model.quantize in BY_BITSANDBYTES
    load_network = LOADERS[loader]
    network = load_network(source, dtype, torch.device("cpu") if is_quantized else device, attn_implementation)
    _check_network(network, tokenizer, source.folder)
    identity = source.identity
    if is_quantized:
        names = quantize_linears(network, model.quantize, device=device, dtype=dtype)
        network.to(device)  # type: ignore[arg-type]
        identity = _note_quantization(identity, model.quantize, len(names))
    return LoadedModel(
        model=network,
        tokenizer=tokenizer,
        identity=identity,
        folder=source.folder,
        compute_dtype=dtype,
        stop_ids=read_stop_ids(source.folder, tokenizer),
    )


def _note_quantization(identity: ModelIdentity, method: str, num_layers: int) -> ModelIdentity:
    note = f"{num_layers} linear layers kept in {method} by bitsandbytes"
    return replace(identity, note=f"{identity.note}; {note}" if identity.note else note)


def choose_dtype(requested: Literal["auto", "float32", "bfloat16", "float64"], device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it faster than float32, else float32."""
    if requested != "auto":
        return _DTYPES[requested]
    has_fast_bf16 = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_multiplies_bf16()
    )
    return torch.bfloat16 if has_fast_bf16 else torch.float32


def _cpu_multiplies_bf16() -> bool:
    """AMX-BF16 or AVX512-BF16 by the kernel's list; elsewhere oneDNN emulates bfloat16, slower than float32."""
    try:
        text = _CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return torch.backends.mkldnn.is_available() and not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def _load_network(
    source: ModelSource, dtype: torch.dtype, device: torch.device, attn_implementation: str
) -> PreTrainedModel:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source.folder,
        dtype=dtype,
        device_map={"": device} if device.type == "cuda" else None,
        attn_implementation=attn_implementation,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # refused below, with names and shapes
        output_loading_info=True,
    )
    network, report = loaded
    _check_all_weights_used(report, source.folder)
    placed: PreTrainedModel = network.to(device).eval()
    return placed


def _load_by_automodel(
    source: ModelSource, dtype: torch.dtype, device: torch.device, attn_implementation: str
) -> PreTrainedModel:
    _check_all_weights_used(automodel.what_does_not_fit(source.folder, source.weight_files), source.folder)
    return automodel.load_network(source.folder, dtype=dtype, device=device, attn_implementation=attn_implementation)


LOADERS = {"transformers": _load_network, "nemo_automodel": _load_by_automodel}


def _check_all_weights_used(report: dict[str, Any], folder: Path) -> None:
    """transformers fills what is missing or of another shape with random numbers and goes on; whet does not."""
    faults = [f"there are no weights for {name}" for name in sorted(report["missing_keys"])]
    faults += [f"nothing uses the weight {name}" for name in sorted(report["unexpected_keys"])]
    for name, found, expected in sorted(report["mismatched_keys"]):
        faults.append(f"{name} has shape {tuple(found)}, config.json says {tuple(expected)}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise StorageError(
            f"config.json and the weight files disagree: {faults[0]}{more}",
            where=str(folder),
            mend="fetch the model anew, config and weights of the same revision",
        )


def _check_network(network: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for index, layer in enumerate(network.model.layers):
        modules = dict(layer.named_modules())
        if absent := [name for name in _LINEARS if not isinstance(modules.get(name), torch.nn.Linear)]:
            raise RecipeError(
                f"layer {index} has no linear {absent[0]}, so the model is not Llama-shaped",
                where=str(folder),
                mend="choose another model",
            )
    num_rows = network.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > num_rows:
        raise RecipeError(
            f"the tokenizer has {len(tokenizer):,} tokens, the embedding only {num_rows:,} rows",
            where=str(folder),
            mend="use the tokenizer that belongs to these weights",
        )
    for name, weight in network.named_parameters():
        if not torch.isfinite(weight.sum()):
            raise StorageError(
                f"the weight {name} holds NaN or infinity", where=str(folder), mend="fetch the model anew"
            )
