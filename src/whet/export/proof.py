"""Proof that an export is the model that was trained: both answer a fixed set of prompts, and the answers are compared.

The source is the base with the adapter live beside it, in float32 (for a full fine-tuning: the run's own weights). The
artefact is read back from the disk by the library that will use it, and computed in float32 too, so that what differs
is what the file lost and the order of additions. Measured on a trained adapter of SmolLM2-135M, whose largest logit is
45: merged float32 differs by at most 1.4e-4 (computed in float64: 2.1e-5, so most of it is arithmetic), an adapter
rounded to bfloat16 by 6.5e-3, a merged bfloat16 model by 0.39 with a mean KL of 2.0e-4.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet.checkpoint.names import is_sharded
from whet.data.templates import build_template, prompts
from whet.errors import GateError, OutOfMemoryError
from whet.export.answers import Agreement, Spooled, compare_logits, continue_greedily, each_logits, top1_changed
from whet.export.prompts import PLAIN, QUESTIONS
from whet.export.source import Source
from whet.models.folder import read_json
from whet.models.load import load_pretrained
from whet.models.peft_reader import attach_live
from whet.recipe.schema import Model
from whet.types import Example, Message

PROOF = "proof.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a proof must keep within; None: not limited."""

    relative_logit_difference: float | None = None
    """relative to the source's largest logit"""
    mean_kl: float | None = None
    """nats per position"""


FLOAT32 = Limits(relative_logit_difference=1e-4)
"""Float32 arithmetic alone takes 3e-6 of this; factors rounded to bfloat16 are over it."""
ROUNDED = Limits(mean_kl=1e-3)
"""of files in bfloat16 or float16"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A library that reads the artefact back."""

    name: str
    logits: Callable[[Sequence[Sequence[int]]], Iterable[Tensor]]
    """token sequences -> float32 logits [T, V] of each; best one at a time"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was compared, and how it came out."""

    limits: Limits
    num_prompts: int
    changed_by_tuning: float | None
    """share of positions where the tuned model's most probable token is not the base's; None: not measured"""
    agreements: tuple[Agreement, ...]
    tokenizer: dict[str, bool]
    """what was compared of tokenizer and generation settings, and whether it is equal"""

    @property
    def faults(self) -> list[str]:
        """What is over its limit or differs, in words; empty when the artefact is proved."""
        found = []
        for agreement in self.agreements:
            for name, limit in asdict(self.limits).items():
                value = getattr(agreement, name)
                # a NaN is not below any limit
                if limit is not None and not value <= limit:
                    found.append(f"read by {agreement.reader}: {name.replace('_', ' ')} {value:.2g} over {limit:g}")
        return found + [f"{name} differs" for name, is_equal in self.tokenizer.items() if not is_equal]

    def sentence(self) -> str:
        """The result in one line, for people and for the model card."""
        worst = max(self.agreements, key=lambda a: (math.isnan(a.mean_kl), a.mean_kl))
        readers = " and ".join(a.reader for a in self.agreements)
        return (
            f"read back by {readers}, {worst.num_positions} positions of {self.num_prompts} prompts: largest logit "
            f"difference {max(a.max_logit_difference for a in self.agreements):.2g}, mean KL {worst.mean_kl:.2g}, same "
            f"most probable token at {worst.top1_agreement:.2%}, greedy text equal to {worst.greedy_agreement:.1%}"
        )


def prove(source: Source, readers: Sequence[Reader], tokenizer_folder: Path, *, limits: Limits) -> Proof:
    """Ask source and artefact the same; compare tokenizer and settings in `tokenizer_folder` with the source's.

    One model is in memory at a time, in float32; OutOfMemoryError when it does not fit on the GPU.
    """
    prompt_ids = _prompt_ids(source.tokenizer, source.stop_ids)
    num_prompt_tokens = [len(prompt) for prompt in prompt_ids]
    try:
        with TemporaryFile() as file:
            texts, tuned, changed = _ask_source(source, prompt_ids, file)
            agreements = tuple(
                compare_logits(reader.name, tuned, reader.logits(texts), num_prompt_tokens) for reader in readers
            )
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            "the model in float32 does not fit on the GPU, so the export cannot be proved there",
            mend="hide the GPU (CUDA_VISIBLE_DEVICES=) to prove it on the CPU, or give --no-proof",
        ) from error
    return Proof(
        limits=limits,
        num_prompts=len(prompt_ids),
        changed_by_tuning=changed,
        agreements=agreements,
        tokenizer=compare_tokenizers(source, tokenizer_folder),
    )


def _ask_source(
    source: Source, prompt_ids: list[list[int]], file: BinaryIO
) -> tuple[list[list[int]], Spooled, float | None]:
    """(prompts with continuations, the tuned model's logits on them, share of tokens that tuning changed)."""
    if source.adapter is None or source.update is None:
        model = _trained_whole(source)
        texts = continue_greedily(model, prompt_ids)
        return texts, Spooled(file, each_logits(model, texts)), None
    live: Any = attach_live(load_float32(source.model), source.adapter, source.update)
    texts = continue_greedily(live, prompt_ids)
    tuned = Spooled(file, each_logits(live, texts))
    with live.disable_adapter():
        changed = top1_changed(each_logits(live, texts), tuned)
    return texts, tuned, changed


def _trained_whole(source: Source) -> nn.Module:
    """The model of a full fine-tuning: as its folder is read by itself, or out of the shards of a checkpoint."""
    if not is_sharded(source.folder):
        return load_float32(Model(id=str(source.folder.resolve())))
    model = load_float32(source.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.weights.read(name))
    return model


def load_float32(model: Model) -> nn.Module:
    """The model computed in float32, on the GPU where there is one."""
    gc.collect()  # models refer to themselves: the one before would stay in memory beside this one
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_pretrained(replace(model, dtype="float32", quantize="none"), device=device).model


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> list[list[int]]:
    """Token ids of the dozen prompts: the questions as a chat where there is a chat template."""
    if not tokenizer.chat_template:
        return [_encode(tokenizer, text) for text in PLAIN + QUESTIONS]
    return [_encode(tokenizer, text) for text in PLAIN] + _chat_ids(tokenizer, stop_ids)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def _chat_ids(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> list[list[int]]:
    template = build_template(tokenizer, "chat", stop_ids)
    answer = Message(role="assistant", content="")
    examples = [
        Example(id=str(n), messages=(Message(role="user", content=text), answer), task="proof", origin=f"question {n}")
        for n, text in enumerate(QUESTIONS)
    ]
    return prompts(template, examples)


def compare_tokenizers(source: Source, folder: Path) -> dict[str, bool]:
    """Tokenizer, template and stop tokens that another tool will find in `folder` against the source's."""
    ours = source.tokenizer
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    stated = read_json(folder / "generation_config.json").get("eos_token_id")
    return {
        "beginning of sequence": ours.bos_token_id == theirs.bos_token_id,
        "end of sequence": ours.eos_token_id == theirs.eos_token_id,
        "stop tokens": sorted([stated] if isinstance(stated, int) else stated or ()) == list(source.stop_ids),
        "encoding of text": all(_encode(ours, text) == _encode(theirs, text) for text in PLAIN + QUESTIONS),
        "chat template": ours.chat_template == theirs.chat_template
        and (not ours.chat_template or _chat_ids(ours, source.stop_ids) == _chat_ids(theirs, source.stop_ids)),
    }


def write_proof(folder: Path, source: Source, dtype: str, proof: Proof | None) -> None:
    """proof.json; without a proof it says that none was made."""
    document: dict[str, Any] = {
        "format_version": 1,
        "status": "proved" if proof else "not proved: --no-proof was given",
        "dtype": dtype,
        "base": asdict(source.identity),
        "versions": {name: importlib.metadata.version(name) for name in ("whet", "torch", "transformers", "peft")},
    }
    if proof is not None:
        document |= json.loads(json.dumps(asdict(proof)))
    (folder / PROOF).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def require(proof: Proof, target: Path) -> None:
    """GateError (exit 8) unless the artefact is the source's equal."""
    if faults := proof.faults:
        raise GateError(
            f"the export is not the model that was trained ({'; '.join(faults)}); nothing was written",
            where=str(target),
            mend="report it with the run's recipe.yaml; --dtype float32 loses least",
        )
