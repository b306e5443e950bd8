"""vLLM in the place of whet's own engine: the same prompts and decoding in, the same `Completion` out.

vLLM comes with the extra `vllm` (Linux, GPUs) and is imported only here. Stop tokens are whet's alone (`ignore_eos`),
texts are decoded by whet's decoder, and each row draws from a seed of its own. The random numbers are vLLM's: sampled
answers are not those of whet's engine, greedy ones are up to rounding.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whet.errors import DataError, RecipeError
from whet.inference.decoding import Decoding
from whet.inference.engine import Completion, Ended, refuse_long_prompts
from whet.inference.growing_text import Decode, GrowingText

# vLLM raises temperatures between 0 and its lowest, and refuses those above its highest
_TEMPERATURES = (0.01, 2.0)


def require_vllm() -> str:
    """Version of the installed vLLM; RecipeError when there is none."""
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            "answers by vLLM need the package vllm, which is not installed",
            where="--backend vllm",
            mend="pip install 'whet[vllm]' (Linux with a GPU), or leave --backend out",
        )
    import vllm

    return str(vllm.__version__)


class VllmEngine:
    """A model folder in vLLM. `max_lora_rank`: room for one adapter of this rank; None: no adapters."""

    def __init__(self, folder: Path, *, dtype: str, context: int, max_lora_rank: int | None = None) -> None:
        require_vllm()
        from vllm import LLM

        adapters = {} if max_lora_rank is None else {"enable_lora": True, "max_lora_rank": max_lora_rank}
        self._llm: Any = LLM(
            model=str(folder), tokenizer=str(folder), dtype=dtype, max_model_len=context, trust_remote_code=False,
            **adapters,
        )  # fmt: skip

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stop_ids: frozenset[int],
        decoding: Decoding,
        keys: Sequence[str],
        decode: Decode,
        adapter: Path | None = None,
    ) -> list[Completion]:
        """As `inference.engine.generate`, with a plain LoRA folder beside the model."""
        from vllm import SamplingParams

        _refuse_temperature(decoding)
        refuse_long_prompts(prompts, keys, decoding)
        settings = [
            SamplingParams(**sampling_settings(decoding, key, len(prompt), stop_ids))
            for prompt, key in zip(prompts, keys, strict=True)
        ]
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            settings,
            lora_request=self._request(adapter) if adapter else None,
            use_tqdm=False,
        )
        return [
            read_output(output.outputs[0], key=key, decoding=decoding, decode=decode)
            for output, key in zip(outputs, keys, strict=True)
        ]

    def _request(self, adapter: Path) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest(lora_name=adapter.name, lora_int_id=1, lora_path=str(adapter))


def sampling_settings(
    decoding: Decoding, key: str, num_prompt_tokens: int, stop_ids: frozenset[int]
) -> dict[str, object]:  # fmt: skip
    """Arguments of vLLM's `SamplingParams` for one row."""
    room = decoding.max_new_tokens
    if decoding.max_total_tokens is not None:
        room = min(room, decoding.max_total_tokens - num_prompt_tokens)
    return {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        # -1 is all tokens in every version
        "top_k": decoding.top_k or -1,
        "seed": None if decoding.is_greedy else _row_seed(decoding.seed, key),
        "max_tokens": room,
        "stop": list(decoding.stop_strings),
        "stop_token_ids": sorted(stop_ids),
        # the end tokens of the model's own files are not asked
        "ignore_eos": True,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": False,
    }


def _row_seed(seed: int, key: str) -> int:
    digest = hashlib.sha256(f"{seed} {key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def read_output(output: Any, *, key: str, decoding: Decoding, decode: Decode) -> Completion:
    """vLLM's `CompletionOutput` as whet's; its `token_ids` end with the stop token. DataError: it ended otherwise."""
    ids = tuple(int(token) for token in output.token_ids)
    ended: Ended
    if output.finish_reason == "length":
        ended = "length"
    elif output.finish_reason == "stop" and isinstance(output.stop_reason, int):
        ended = "stop_token"
    elif output.finish_reason == "stop" and isinstance(output.stop_reason, str):
        ended = "stop_string"
    else:
        raise DataError(
            f"vLLM ended an answer by {output.finish_reason!r} ({output.stop_reason!r})",
            where=f"row {key}",
            mend="answer with whet's own engine: leave --backend out",
        )
    if ended == "stop_string":
        return Completion(ids=ids, ended=ended, text=_cut(ids, decoding, decode, otherwise=output.text))
    return Completion(ids=ids, ended=ended, text=decode(ids[:-1] if ended == "stop_token" else ids))


def _cut(ids: Sequence[int], decoding: Decoding, decode: Decode, *, otherwise: str) -> str:
    """The text before its first stop string; `otherwise` where vLLM's decoder alone finds one."""
    growing = GrowingText(decode, decoding.stop_strings)
    found = (text for token in ids if (text := growing.add(token)) is not None)
    return next(found, otherwise)


def _refuse_temperature(decoding: Decoding) -> None:
    lowest, highest = _TEMPERATURES
    if not decoding.is_greedy and not lowest <= decoding.temperature <= highest:
        raise RecipeError(
            f"vLLM samples at temperatures from {lowest} to {highest} (got {decoding.temperature})",
            where="temperature",
            mend="change it, or answer with whet's own engine: leave --backend out",
        )
