"""The part of vLLM's public interface that whet uses, over whet's own engine and the tiny model.

Names, arguments and meanings follow vLLM's SamplingParams, LLM.generate, LoRARequest and CompletionOutput as of 0.11:
`token_ids` end with the stop token, `stop_reason` is the stop token's id, the stop string, or None at the length limit.
"""

from __future__ import annotations

import importlib.machinery
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from whet.inference import engine
from whet.inference.decoding import Decoding
from whet.inference.text import answer_decoder
from whet.kernels import attention
from whet.models.adapter_source import read_adapter_folder
from whet.models.merge import merge_adapter

VERSION = "0.11.0"


@dataclass(kw_only=True)
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 16
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True


@dataclass(kw_only=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass(kw_only=True)
class CompletionOutput:
    token_ids: list[int]
    text: str
    finish_reason: str
    stop_reason: int | str | None


@dataclass(kw_only=True)
class RequestOutput:
    outputs: list[CompletionOutput]


class LLM:
    """Greedy only."""

    opened: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, model: str, *, tokenizer: str, dtype: str, max_model_len: int, trust_remote_code: bool,
                 enable_lora: bool = False, max_lora_rank: int = 16) -> None:  # fmt: skip
        assert trust_remote_code is False
        self.opened.append({"model": model, "dtype": dtype, "lora": max_lora_rank if enable_lora else None})
        self._folder, self._dtype = model, getattr(torch, dtype)
        self._enable_lora, self._max_lora_rank = enable_lora, max_lora_rank
        self._decode = answer_decoder(AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False))

    def generate(self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], *,
                 lora_request: LoRARequest | None = None, use_tqdm: bool = True) -> list[RequestOutput]:  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(self._folder, dtype=self._dtype, trust_remote_code=False)
        if lora_request is not None:
            adapter = read_adapter_folder(Path(lora_request.lora_path))
            assert self._enable_lora and adapter.config["r"] <= self._max_lora_rank
            merge_adapter(model, adapter.config, adapter.tensors)
        attention.install(model)
        return [
            RequestOutput(outputs=[self._write(model, prompt["prompt_token_ids"], settings)])
            for prompt, settings in zip(prompts, sampling_params, strict=True)
        ]

    def _write(self, model: Any, prompt: list[int], settings: SamplingParams) -> CompletionOutput:
        assert settings.temperature == 0 and settings.ignore_eos
        decoding = Decoding(
            max_new_tokens=settings.max_tokens, batch_rows=1, stop_strings=tuple(settings.stop)
        )  # fmt: skip
        (found,) = engine.generate(
            model, [prompt], stop_ids=frozenset(settings.stop_token_ids), decoding=decoding, decode=self._decode
        )
        reason: int | str | None = None
        if found.ended == "stop_token":
            reason = found.ids[-1]
        elif found.ended == "stop_string":
            reason = settings.stop[0]
        return CompletionOutput(
            token_ids=list(found.ids), text=found.text or "", stop_reason=reason,
            finish_reason="length" if found.ended == "length" else "stop",
        )  # fmt: skip


def modules() -> dict[str, types.ModuleType]:
    """What `import vllm` and `from vllm.lora.request import LoRARequest` find."""
    vllm, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    for module in (vllm, lora, request):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    vllm.__dict__.update(__version__=VERSION, LLM=LLM, SamplingParams=SamplingParams, lora=lora, __path__=[])
    lora.__dict__.update(request=request, __path__=[])
    request.__dict__.update(LoRARequest=LoRARequest)
    return {module.__name__: module for module in (vllm, lora, request)}
