"""What a model says to the proof's prompts: its logits at every position, with its own greedy continuation behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor, nn

NUM_NEW_TOKENS = 16
_POSITIONS = 8
"""compared at a time: float64 copies of whole vocabularies are large"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far one reader of the artefact is from the source, over all positions of prompts and continuations."""

    reader: str
    """who read the artefact back: `transformers`, `peft`, ..."""
    num_positions: int
    max_logit_difference: float
    relative_logit_difference: float
    """the largest difference, relative to the source's largest logit"""
    mean_kl: float
    """KL(source || reader), nats per position"""
    max_kl: float
    top1_agreement: float
    """share of positions with the same most probable token"""
    greedy_agreement: float
    """share of the greedy tokens before the first that differs, mean over the prompts"""


@torch.inference_mode()
def continue_greedily(model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Every prompt with its NUM_NEW_TOKENS most probable next tokens; stop tokens do not stop.

    The prompts are read side by side, padded on the left; a tie of rounding may fall differently than one by one.
    """
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids_BT = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    mask_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        ids_BT[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask_BT[row, width - len(prompt) :] = 1
    lengths_B1 = mask_BT.sum(1, keepdim=True)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    cache, new = None, []
    for step in range(NUM_NEW_TOKENS):
        out = model(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache = out.past_key_values
        ids_BT = out.logits[:, -1:].argmax(-1)
        new.append(ids_BT)
        mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)
        positions_BT = lengths_B1 + step
    continued = torch.cat(new, dim=1).tolist()
    return [[*prompt, *tokens] for prompt, tokens in zip(prompts, continued, strict=True)]


@torch.inference_mode()
def each_logits(model: nn.Module, texts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """float32 logits [T, V] of each token sequence by itself, on the CPU; made when they are asked for."""
    device = next(model.parameters()).device
    for text in texts:
        ids_1T = torch.tensor([list(text)], device=device)
        yield model(input_ids=ids_1T, use_cache=False).logits[0].float().cpu()


def logits_of(model: nn.Module, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """All of `each_logits`, for when they are needed more than once."""
    return list(each_logits(model, texts))


class Spooled:
    """float32 tensors in a file, read back one at a time: logits of a large vocabulary would outweigh a small model."""

    def __init__(self, file: BinaryIO, tensors: Iterable[Tensor]) -> None:
        self._file = file
        self._shapes = []
        for tensor in tensors:
            self._shapes.append(tensor.shape)
            file.write(tensor.contiguous().numpy().data)

    def __iter__(self) -> Iterator[Tensor]:
        offset = 0
        for shape in self._shapes:
            self._file.seek(offset)
            content = bytearray(self._file.read(4 * shape.numel()))
            offset += len(content)
            yield torch.frombuffer(content, dtype=torch.float32).view(shape)


def compare_logits(
    reader: str, source: Iterable[Tensor], artefact: Iterable[Tensor], num_prompt_tokens: Sequence[int]
) -> Agreement:
    """The distances between two readings of the same token sequences, each [T, V].

    Greedy tokens are compared along the source's own continuation: up to the first difference both have read the same.
    """
    differences, largest, kl, same, greedy = [], [], [], [], []
    for source_TV, artefact_TV, num_prompt in zip(source, artefact, num_prompt_tokens, strict=True):
        for source_PV, artefact_PV in zip(source_TV.split(_POSITIONS), artefact_TV.split(_POSITIONS), strict=True):
            largest.append(source_PV.abs().max())
            differences.append((source_PV - artefact_PV).abs().max())
            logp_PV, logq_PV = (x.double().log_softmax(-1) for x in (source_PV, artefact_PV))
            kl.append((logp_PV.exp() * (logp_PV - logq_PV)).sum(-1).clamp(min=0))
        same_T = source_TV.argmax(-1) == artefact_TV.argmax(-1)
        same.append(same_T)
        # position t predicts token t + 1; the last one's prediction lies behind the continuation
        same_new = same_T[num_prompt - 1 : num_prompt - 1 + NUM_NEW_TOKENS]
        greedy.append(same_new.double().cumprod(0).mean())
    kl_P, same_P = torch.cat(kl), torch.cat(same)
    # torch's max and mean keep a NaN, Python's may lose it
    difference = float(torch.stack(differences).max())
    return Agreement(
        reader=reader,
        num_positions=len(kl_P),
        max_logit_difference=difference,
        relative_logit_difference=difference / float(torch.stack(largest).max()),
        mean_kl=float(kl_P.mean()),
        max_kl=float(kl_P.max()),
        top1_agreement=float(same_P.double().mean()),
        greedy_agreement=float(torch.stack(greedy).mean()),
    )


def top1_changed(base: Iterable[Tensor], tuned: Iterable[Tensor]) -> float:
    """Share of positions where tuning changed the most probable token.

    Equality with an adapter that does nothing would show nothing.
    """
    changed = [b_TV.argmax(-1) != t_TV.argmax(-1) for b_TV, t_TV in zip(base, tuned, strict=True)]
    return float(torch.cat(changed).double().mean())
