"""A PEFT adapter folder, whet's or another tool's -> what it does to which weight.

Only JSON and safetensors are opened. `read_adapter_folder` reads the files, `parse_adapter` makes an `AdapterUpdate`
of them. Whatever would change the result without being understood is refused: an adapter that is applied wrongly
still answers like a model, only like a worse one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whet.errors import RecipeError, StorageError
from whet.models import fused_layout
from whet.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from whet.models.folder import read_json
from whet.recipe.schema import Model
from whet.types import ModelIdentity

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_PICKLE = "adapter_model.bin"
_READ_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+?)\.(?P<kind>lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")
_PLAIN_PATTERN = re.compile(r"\^?[\w.]+")
_LARGEST = 1e300
_EMBEDDINGS = (EMBEDDING, HEAD)

# Starts of PEFT's that leave the base weights as they are; the others move a part of the base into the factors.
_STARTS_OUTSIDE_THE_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")
# What changes the function in a way that W + s BA does not cover. `megatron_config` makes PEFT import a module by name.
_NOT_COVERED = (
    "fan_in_fan_out", "lora_bias", "layer_replication", "megatron_config", "trainable_token_indices",
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config",
    "monteclora_config", "target_parameters",
)  # fmt: skip
_NO_EFFECT = (
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_dora", "use_rslora",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUpdate:
    """What an adapter does to one weight W: `merge.merged_weight` has the formula."""

    a_RI: Tensor
    b_OR: Tensor
    scale: float
    """s: alpha / r, or alpha / sqrt(r) where the adapter is rank-stabilised"""
    magnitude_O: Tensor | None = None
    """DoRA's length of every row of the weight; None for LoRA"""

    @property
    def rank(self) -> int:
        return self.a_RI.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterUpdate:
    """What an adapter does to its base."""

    layers: dict[str, LayerUpdate]
    """by module name (`model.layers.0.self_attn.q_proj`)"""
    replaced: dict[str, Tensor]
    """weights that were trained along with the adapter, by weight name"""
    unties_head: bool = False
    """the base shares embedding and output head, this adapter gives them different values"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """The files of an adapter as they are, checked for safety only."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def base_sha256(self) -> str | None:
        """Hash of the base that whet wrote into the configuration; None for adapters of other tools."""
        mapping = self.config.get("auto_mapping")
        known = mapping.get("base_weights_sha256") if isinstance(mapping, dict) else None
        return known if isinstance(known, str) else None

    def refuse_other_base(self, base: ModelIdentity) -> None:
        """StorageError if it is known to be trained on other weights than those of `base`."""
        known = self.base_sha256
        if known is not None and known != base.weights_sha256:
            raise StorageError(
                f"the adapter was trained on other base weights ({known[:12]}...) than "
                f"{base.id} ({base.weights_sha256[:12]}...)",
                where=str(self.folder),
                mend="name the base that it was trained on, in the revision of that time",
            )

    def pin_base(self, model: Model) -> Model:
        """The recipe's `model` at the commit that the adapter was trained on, where the recipe leaves it open."""
        if model.revision is not None or self.base_sha256 is None:
            return model
        return replace(model, revision=self.config.get("revision"))


def read_adapter_folder(folder: Path) -> AdapterFolder:
    """The adapter in `folder`. RecipeError: only pickles, or none at all; StorageError: damaged, a link, not finite.

    What `base_model_name_or_path` says is never followed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in sorted(folder.iterdir()):
        if path.suffix in _READ_SUFFIXES:
            _refuse_link(path)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        _say_why_there_is_none(folder)
    try:
        config = read_json(folder / ADAPTER_CONFIG)
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"holds no readable adapter: {error}", where=str(folder)) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise StorageError(f"{name} holds {tensor.dtype}, not weights", where=str(folder / ADAPTER_WEIGHTS))
        if not bool(torch.isfinite(tensor).all()):
            raise StorageError(
                f"{name} holds NaN or infinity",
                where=str(folder / ADAPTER_WEIGHTS),
                mend="take an earlier checkpoint, or fetch the adapter anew",
            )
    return AdapterFolder(folder=folder, config=config, tensors=tensors)


def _say_why_there_is_none(folder: Path) -> None:
    if (folder / _PICKLE).exists():
        raise RecipeError(
            f"holds its weights only as a pickle ({_PICKLE}), which can run code and is never opened",
            where=str(folder),
            mend="save it as safetensors where you trust it: model.save_pretrained(FOLDER, safe_serialization=True)",
        )
    raise RecipeError(
        f"holds no {ADAPTER_WEIGHTS}", where=str(folder), mend="name a finished run, a checkpoint or an adapter folder"
    )


def _refuse_link(path: Path) -> None:
    """Links are followed only inside the hub's cache, whose snapshots are links to blobs beside them."""
    if not path.is_symlink():
        return
    snapshot = path.parent.resolve()
    if snapshot.parent.name == "snapshots" and path.resolve().parent == snapshot.parents[1] / "blobs":
        return
    raise StorageError("is a symbolic link, which is not followed", where=str(path), mend="put the file itself there")


def parse_adapter(config: Mapping[str, Any], tensors: Mapping[str, Tensor], base: Mapping[str, Any]) -> AdapterUpdate:
    """The update that PEFT would apply for these files; `base` is the base's config.json.

    StorageError names what is missing, left over, of another rank, or of a kind that is not covered.
    """
    _refuse_odd_types(config)
    refuse_other_kinds(config)
    if fused_layout.is_fused(tensors):
        tensors = fused_layout.split(tensors, base)
    factors: dict[str, dict[str, Tensor]] = {}
    replaced = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix(_PREFIX)
        if match := _FACTOR.fullmatch(bare):
            factors.setdefault(match["module"], {})[match["kind"]] = tensor
        elif _is_trained_along(bare, config):
            replaced[bare] = tensor
        else:
            raise StorageError(f"{name} is no part of a LoRA adapter", mend=_FETCH)
    if not factors:
        raise StorageError("the adapter holds no factors", mend=_FETCH)
    layers = {module: _layer(module, found, config) for module, found in sorted(factors.items())}
    return AdapterUpdate(layers=layers, replaced=replaced, unties_head=_unties_head(replaced, config, base))


_FETCH = "fetch or save the adapter anew: file and configuration do not belong together"


def _refuse_odd_types(config: Mapping[str, Any]) -> None:
    """StorageError where a setting that is looked into is of another type than PEFT writes."""
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise StorageError(f"adapter_config has no pairs of name and value as {key}", mend=_FETCH)
    for key in ("target_modules", "modules_to_save"):
        listed = config.get(key) or []
        if not (isinstance(listed, str) or (isinstance(listed, list) and all(isinstance(e, str) for e in listed))):
            raise StorageError(f"adapter_config has no names as {key}", mend=_FETCH)


def refuse_other_kinds(config: Mapping[str, Any]) -> None:
    """StorageError unless the adapter is LoRA or DoRA over untouched base weights."""
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise StorageError(f"is a {kind} adapter, not LoRA", mend="merge it with the tool that made it")
    if (start := config.get("init_lora_weights", True)) not in _STARTS_OUTSIDE_THE_BASE:
        raise StorageError(
            f"starts inside the base (init_lora_weights: {start}): its factors belong to an edited base, and on the "
            "pristine one they give another model",
            mend="convert it where it was trained: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    if config.get("bias", "none") != "none":
        raise StorageError(f"trains biases (bias: {config['bias']}), which is not covered", mend=_ELSEWHERE)
    unknown = sorted(key for key, value in config.items() if value and key not in (*_NO_EFFECT, *_NOT_COVERED))
    used = [key for key in _NOT_COVERED if config.get(key)] + unknown
    if used:
        raise StorageError(f"uses {', '.join(used)}, which is not covered", mend=_ELSEWHERE)


_ELSEWHERE = "merge it with the tool that made it, and name the merged folder as model.id"


def _is_trained_along(name: str, config: Mapping[str, Any]) -> bool:
    """PEFT's rule for `modules_to_save`; a resized vocabulary saves the embeddings without listing them."""
    listed = [str(key) for key in config.get("modules_to_save") or ()]
    module = name.removesuffix(".weight")
    return name.endswith(".weight") and (name in _EMBEDDINGS or any(module.endswith(key) for key in listed))


def _layer(module: str, found: Mapping[str, Tensor], config: Mapping[str, Any]) -> LayerUpdate:
    is_dora = bool(config.get("use_dora"))
    expected = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if is_dora else set())
    if missing := sorted(expected - set(found)):
        raise StorageError(f"{module}.{missing[0]} is missing from the adapter", mend=_FETCH)
    if extra := sorted(set(found) - expected):
        raise StorageError(f"{module}.{extra[0]} is in the adapter, but adapter_config is not DoRA's", mend=_FETCH)
    a_RI, b_OR = found["lora_A"], found["lora_B"]
    if a_RI.ndim != 2 or b_OR.ndim != 2:
        raise StorageError(f"the factors of {module} are no matrices", mend=_FETCH)
    rank = int(_by_pattern(config, "rank_pattern", module, config.get("r")))
    if a_RI.shape[0] != rank or b_OR.shape[1] != rank:
        raise StorageError(
            f"{module} has rank {a_RI.shape[0]} in A and {b_OR.shape[1]} in B, but adapter_config says {rank}",
            mend=_FETCH,
        )
    alpha = float(_by_pattern(config, "alpha_pattern", module, config.get("lora_alpha")))
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return LayerUpdate(a_RI=a_RI, b_OR=b_OR, scale=scale, magnitude_O=found.get("lora_magnitude_vector"))


def _by_pattern(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value of the first pattern that ends `module` at a dot, as PEFT looks it up."""
    value = default
    for pattern, of_pattern in (config.get(key) or {}).items():
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise StorageError(
                f"{key} holds the expression {pattern!r}; only module names are covered", mend=_ELSEWHERE
            )
        name = pattern.removeprefix("^")
        if module == name or (module.endswith(f".{name}") and not pattern.startswith("^")):
            value = of_pattern
            break
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
        what = key.removesuffix("_pattern")
        raise StorageError(f"adapter_config has {json.dumps(value)} as the {what} of {module}", mend=_FETCH)
    return value


def _unties_head(replaced: Mapping[str, Tensor], config: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """PEFT trains a copy of one of two tied layers, unless both are in the file with the same values."""
    if not base.get("tie_word_embeddings") or not set(replaced) & set(_EMBEDDINGS):
        return False
    if set(_EMBEDDINGS) <= set(replaced):
        return not torch.equal(replaced[EMBEDDING], replaced[HEAD])
    # without being listed, a resized vocabulary was saved: it is loaded into the layer that both share
    listed = [str(key) for key in config.get("modules_to_save") or ()]
    return any(name.removesuffix(".weight").endswith(key) for name in replaced if name in _EMBEDDINGS for key in listed)


def check_fits(update: AdapterUpdate, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> None:
    """StorageError unless every factor has its weight in the base (`shapes` by weight name), and none is absent."""
    for module, layer in update.layers.items():
        if module == "lm_head" and HEAD not in shapes:
            raise StorageError(
                "adapts the output head, which this base shares with its embedding: merging would change both",
                mend="train it again without lm_head among the targets",
            )
        found = (layer.b_OR.shape[0], layer.a_RI.shape[1])
        _check_shape(f"{module}.weight", found, shapes)
        if layer.magnitude_O is not None and layer.magnitude_O.shape != found[:1]:
            raise StorageError(
                f"the magnitude of {module} has shape {tuple(layer.magnitude_O.shape)}", mend=_OTHER_BASE
            )
    for name, tensor in update.replaced.items():
        _check_shape(name, tuple(tensor.shape), {**shapes, HEAD: shapes.get(HEAD, shapes[EMBEDDING])})
    _check_targets(update, shapes, config)


_OTHER_BASE = "name the base that the adapter was trained on (--base)"


def _check_shape(name: str, found: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if name not in shapes:
        raise StorageError(f"the adapter changes {name}, which the model does not have", mend=_OTHER_BASE)
    if tuple(shapes[name]) != found:
        raise StorageError(
            f"the adapter's update of {name} has shape {found}, the base's weight {tuple(shapes[name])}",
            mend=_OTHER_BASE,
        )


def _check_targets(update: AdapterUpdate, shapes: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """The pairs in the file against `target_modules`: PEFT fills an absent pair with zeros and drops a surplus one."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or config.get("layers_to_transform") or config.get("exclude_modules"):
        return
    if any(part in target for target in targets for part in fused_layout.PARTS):
        return
    modules = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight") and name != EMBEDDING]
    meant = {m for m in modules if any(m == t or m.endswith(f".{t}") for t in map(str, targets))}
    if absent := sorted(meant - set(update.layers)):
        raise StorageError(f"the factors of {absent[0]} are missing from the adapter", mend=_FETCH)
    if surplus := sorted(set(update.layers) - meant):
        raise StorageError(f"holds factors of {surplus[0]}, which is none of its target_modules", mend=_FETCH)
