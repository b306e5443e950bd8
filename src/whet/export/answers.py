"""What a model says to the proof's prompts: its logits at every position, with its own greedy continuation behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NUM_NEW_TOKENS = 16


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
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        ids_BT = out.logits[:, -1:].argmax(-1)
        new.append(ids_BT)
        mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)
        positions_BT = lengths_B1 + step
    continued = torch.cat(new, dim=1).tolist()
    return [[*prompt, *tokens] for prompt, tokens in zip(prompts, continued, strict=True)]


@torch.inference_mode()
def logits_of(model: nn.Module, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """float32 logits [T, V] of each token sequence by itself, on the CPU."""
    device = next(model.parameters()).device
    return [
        model(input_ids=torch.tensor([list(text)], device=device), use_cache=False).logits[0].float().cpu()
        for text in texts
    ]


def compare_logits(
    reader: str, source: Sequence[Tensor], artefact: Sequence[Tensor], num_prompt_tokens: Sequence[int]
) -> Agreement:
    """The distances between two readings of the same token sequences, each [T, V].

    Greedy tokens are compared along the source's own continuation: up to the first difference both have read the same.
    """
    differences, kl, same, greedy = [], [], [], []
    for source_TV, artefact_TV, num_prompt in zip(source, artefact, num_prompt_tokens, strict=True):
        differences.append((source_TV - artefact_TV).abs().max())
        logp_TV, logq_TV = (x.double().log_softmax(-1) for x in (source_TV, artefact_TV))
        kl.append((logp_TV.exp() * (logp_TV - logq_TV)).sum(-1).clamp(min=0))
        same_T = source_TV.argmax(-1) == artefact_TV.argmax(-1)
        same.append(same_T)
        # position t predicts token t + 1; the last one's prediction lies behind the continuation
        same_new = same_T[num_prompt - 1 : num_prompt - 1 + NUM_NEW_TOKENS]
        greedy.append(same_new.double().cumprod(0).mean())
    kl_P, same_P = torch.cat(kl), torch.cat(same)
    # torch's max and mean keep a NaN, Python's may lose it
    difference = float(torch.stack(differences).max())
    largest = max(float(source_TV.abs().max()) for source_TV in source)
    return Agreement(
        reader=reader,
        num_positions=len(kl_P),
        max_logit_difference=difference,
        relative_logit_difference=difference / largest,
        mean_kl=float(kl_P.mean()),
        max_kl=float(kl_P.max()),
        top1_agreement=float(same_P.double().mean()),
        greedy_agreement=float(torch.stack(greedy).mean()),
    )


def top1_changed(base: Sequence[Tensor], tuned: Sequence[Tensor]) -> float:
    """Share of positions where tuning changed the most probable token: equality of an adapter that does nothing is no
    evidence."""
    pairs = list(zip(base, tuned, strict=True))
    changed = sum(int((b.argmax(-1) != t.argmax(-1)).sum()) for b, t in pairs)
    return changed / sum(len(b) for b, _ in pairs)
