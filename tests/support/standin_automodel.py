"""Stands in for NVIDIA's package of this name: what of its loader whet relies on, without CUDA.

As in nemo-automodel 0.7.0 with `force_hf`: transformers' own class under a subclass of the same name, weights as wide
as the wider of file and request, the options below, and others passed on to transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel

CALLS: list[dict[str, Any]] = []


class NeMoAutoModelForCausalLM:
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        use_liger_kernel: bool = True,
        use_sdpa_patching: bool = True,
        torch_dtype: Any = "auto",
        attn_implementation: str = "sdpa",
        force_hf: bool = False,
        **options: Any,
    ) -> PreTrainedModel:
        CALLS.append({"use_liger_kernel": use_liger_kernel, "use_sdpa_patching": use_sdpa_patching,
                      "force_hf": force_hf, **options})  # fmt: skip
        assert isinstance(pretrained_model_name_or_path, str), "a path object is taken for a configuration"
        dtype = options.pop("dtype", None) or torch_dtype
        network = AutoModelForCausalLM.from_pretrained(
            pretrained_model_name_or_path, dtype=dtype, attn_implementation=attn_implementation, **options
        )
        with safe_open(f"{pretrained_model_name_or_path}/model.safetensors", framework="pt") as file:
            for name, weight in network.named_parameters():
                weight.data = weight.data.to(torch.promote_types(file.get_tensor(name).dtype, weight.dtype))
        network.__class__ = type(type(network).__name__, (type(network),), {})
        return network
