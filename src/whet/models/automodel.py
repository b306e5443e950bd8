"""The network as NVIDIA's NeMo AutoModel builds it: transformers' classes and the weights of the folder, on a GPU.

nemo-automodel pins its own transformers and loads nothing without CUDA, so it lives in an environment of its own
(docs/nemo-automodel.md). Its kernels stay off, since whet installs its own, and so does its habit of running code that
comes with models of some owners.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from whet.errors import RecipeError
from whet.models.weight_files import list_tensors

_PACKAGE, _MODULE = "nemo-automodel", "nemo_automodel"
_WHERE = "model.loader"
_OTHERWISE = "or set model.loader to transformers: names and values of the weights are the same"
_PAGE = "docs/nemo-automodel.md"


def require_automodel(device: torch.device) -> None:
    """RecipeError when AutoModel cannot load here; said before anything is fetched."""
    if importlib.util.find_spec(_MODULE) is None:
        raise RecipeError(
            f"the loader {_MODULE} needs the package {_PACKAGE}, which is not installed",
            where=_WHERE,
            mend=f"install it into an environment of its own ({_PAGE}), {_OTHERWISE}",
        )
    refuse_other_transformers()
    if device.type != "cuda" or not torch.cuda.is_available():
        seen = "no CUDA device is seen" if not torch.cuda.is_available() else f"train.device chose {device.type}"
        raise RecipeError(
            f"the loader {_MODULE} loads onto CUDA devices only, and {seen} (torch {torch.__version__})",
            where=_WHERE,
            mend=f"run on a machine with an NVIDIA GPU, {_OTHERWISE}",
        )
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        raise RecipeError(
            f"the loader {_MODULE} is for one process; of several, it would cut the model up by itself",
            where=_WHERE,
            mend=f"start one process, {_OTHERWISE}",
        )


def refuse_other_transformers() -> None:
    """RecipeError unless the installed transformers is one that nemo-automodel says it works with."""
    wanted = [Requirement(line) for line in importlib.metadata.requires(_PACKAGE) or ()]
    found = importlib.metadata.version("transformers")
    for requirement in wanted:
        if requirement.name == "transformers" and not requirement.specifier.contains(found, prereleases=True):
            raise RecipeError(
                f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)} works with transformers{requirement.specifier}, "
                f"here is {found}",
                where=_WHERE,
                mend=f"use an environment of its own ({_PAGE}), {_OTHERWISE}",
            )


def what_does_not_fit(folder: Path, files: tuple[Path, ...]) -> dict[str, Any]:
    """Weights of `files` against the layers that config.json describes, in the form in which transformers reports it.

    AutoModel hands no such report on.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    places = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    stored = {name: tensor.shape for name, tensor in list_tensors(files).items()}
    needed = {name for name, _ in network.named_parameters()}
    shared = [name for name in stored if name in places and stored[name] != places[name]]
    return {
        "missing_keys": needed - stored.keys(),
        "unexpected_keys": stored.keys() - places.keys(),
        "mismatched_keys": [(name, stored[name], places[name]) for name in shared],
    }


def load_network(
    folder: Path, *, dtype: torch.dtype, device: torch.device, attn_implementation: str
) -> PreTrainedModel:
    """The model of `folder` on `device`, all weights in `dtype`, in evaluation mode.

    AutoModel by itself leaves weights as wide as their file where that is wider than `dtype`.
    """
    try:
        from nemo_automodel import NeMoAutoModelForCausalLM
    except ImportError as error:
        raise RecipeError(
            f"{_PACKAGE} cannot be imported: {error}",
            where=_WHERE,
            mend=f"{_PAGE} names versions that fit each other, {_OTHERWISE}",
        ) from error
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        network: PreTrainedModel = NeMoAutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attn_implementation,
            force_hf=True,
            use_liger_kernel=False,
            use_sdpa_patching=False,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    for parameter in network.parameters():
        parameter.data = parameter.data.to(device, dtype)
    return network.to(device).eval()  # type: ignore[arg-type]
