"""How likely a model finds each row's gold answer, teacher-forced: every token of it given the true ones before.

What is scored is what training teaches: the last answer up to and including the token that ends its turn, after the
prompt that generation gets. Rows are packed as documents that do not see each other, and the head runs on the scored
positions only, so a row's numbers do not depend on the rows beside it (in float32, up to rounding).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import torch

from whet.data import templates
from whet.data.pack_plan import plan_packs
from whet.data.packing import IGNORED, pack
from whet.errors import DataError
from whet.kernels.attention import DocumentLayout
from whet.kernels.loss_head import nll_and_correct, share_of
from whet.models.load import LoadedModel
from whet.shortage import in_halves
from whet.types import Example, TokenizedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldLikelihood:
    """One row's gold answer under the model. Loss per token is `nll / num_tokens`, perplexity its exponential."""

    nll: float
    """negative log-likelihood of the answer, in nats, summed over its tokens"""
    num_tokens: int
    """tokens of the answer, the one that ends the turn included"""
    num_correct: int
    """of these, tokens that the model finds more probable than any other"""


def gold_likelihoods(
    loaded: LoadedModel,
    template: templates.Template,
    examples: Sequence[Example],
    *,
    batch_tokens: int = 4096,
    progress: Callable[[int], None] = lambda _num_done: None,
    may_halve: bool = True,
) -> list[GoldLikelihood | None]:
    """Per example its gold answer's likelihood; None where there is no answer, it cannot be rendered, or prompt and
    answer are longer than the model reads.

    `loaded.model` has `kernels.attention` installed and is left in evaluation mode; about `batch_tokens` tokens are
    read at a time, fewer where memory runs out, unless `may_halve` is off (other ranks take part). A model whose
    trained weights are wider than `loaded.compute_dtype` is called under autocast.
    """
    samples = gold_samples(template, examples)
    return sample_likelihoods(loaded, samples, batch_tokens=batch_tokens, progress=progress, may_halve=may_halve)


def sample_likelihoods(
    loaded: LoadedModel,
    samples: Sequence[TokenizedSample | None],
    *,
    batch_tokens: int = 4096,
    progress: Callable[[int], None] = lambda _num_done: None,
    may_halve: bool = True,
) -> list[GoldLikelihood | None]:
    """Per sample the likelihood of its taught tokens; None for None and for what is longer than the model reads."""
    loaded.model.eval()
    longest = int(loaded.model.config.max_position_embeddings)
    rows = [row for row, sample in enumerate(samples) if sample is not None and sample.num_tokens <= longest]
    lengths = np.array([_at(samples, row).num_tokens for row in rows], dtype=np.int64)
    found: list[GoldLikelihood | None] = [None] * len(samples)
    num_done = len(samples) - len(rows)
    for part in plan_packs(lengths, max([batch_tokens, *lengths.tolist()])):
        members = [rows[index] for index in part.tolist()]
        taken = [_at(samples, row) for row in members]
        measured, _ = in_halves(taken, partial(_measure, loaded), may_halve=may_halve)
        for row, likelihood in zip(members, chain.from_iterable(measured), strict=True):
            found[row] = likelihood
        num_done += len(members)
        progress(num_done)
    return found


def gold_samples(template: templates.Template, examples: Sequence[Example]) -> list[TokenizedSample | None]:
    """Each example as training would read it with its last answer alone taught; None where that is not possible."""
    asked = [row for row, example in enumerate(examples) if _has_answer(example)]
    rendered = templates.render_many(template, [_teach_last(examples[row]) for row in asked])
    good = [(row, each) for row, each in zip(asked, rendered, strict=True) if not isinstance(each, DataError)]
    pieces = templates.encode(template, [each for _, each in good])
    samples: list[TokenizedSample | None] = [None] * len(examples)
    for (row, each), ids_of_texts in zip(good, pieces, strict=True):
        try:
            ids, taught = templates.assemble(template, each, ids_of_texts)
        except DataError:
            continue
        sample = TokenizedSample(id=examples[row].id, ids=ids, taught=taught)
        samples[row] = sample if sample.num_taught else None
    return samples


def _has_answer(example: Example) -> bool:
    last = example.messages[-1] if example.messages else None
    return last is not None and last.role == "assistant" and bool(last.content or last.extra)


def _teach_last(example: Example) -> Example:
    *before, answer = example.messages
    untaught = tuple(replace(message, is_taught=False) for message in before)
    return replace(example, messages=(*untaught, replace(answer, is_taught=True)))


def _at(samples: Sequence[TokenizedSample | None], row: int) -> TokenizedSample:
    sample = samples[row]
    assert sample is not None
    return sample


@torch.no_grad()
def _measure(loaded: LoadedModel, samples: Sequence[TokenizedSample]) -> list[GoldLikelihood]:
    """One forward pass over `samples` laid end to end."""
    batch = pack(samples, loaded.model.device)
    out = loaded.model.model(
        input_ids=batch.ids_T[None],
        position_ids=batch.positions_T[None],
        attention_mask=None,
        use_cache=False,
        layout=DocumentLayout(batch.lengths),
    )
    taught_T = batch.labels_T != IGNORED
    head = loaded.model.get_output_embeddings()
    nll_N, correct_N = nll_and_correct(
        out.last_hidden_state[0][taught_T],
        head.weight,
        batch.labels_T[taught_T],
        dtype=loaded.compute_dtype,
        share=share_of(head),
    )
    sizes = [sample.num_taught for sample in samples]
    return [
        GoldLikelihood(nll=float(nll.double().sum()), num_tokens=size, num_correct=int(correct.sum()))
        for size, nll, correct in zip(sizes, nll_N.split(sizes), correct_N.split(sizes), strict=True)
    ]
