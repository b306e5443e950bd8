"""The distances against their definitions, and the batched continuation against one prompt after the other."""

from tempfile import TemporaryFile

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from tiny import VOCAB, tiny_llama

from whet.export.answers import (
    NUM_NEW_TOKENS,
    Spooled,
    compare_logits,
    continue_greedily,
    each_logits,
    logits_of,
    top1_changed,
)

MODEL = tiny_llama(torch.float32)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, VOCAB, n).tolist() for n in (1, 7, 19)]


def test_a_continuation_is_the_one_that_each_prompt_gets_alone():
    for prompt, text in zip(PROMPTS, continue_greedily(MODEL, PROMPTS), strict=True):
        alone = list(prompt)
        for _ in range(NUM_NEW_TOKENS):
            alone.append(int(MODEL(torch.tensor([alone]), use_cache=False).logits[0, -1].argmax()))
        assert text == alone


def pairs(num_texts=2, num_tokens=30, num_words=7):
    generator = torch.Generator().manual_seed(0)
    source = [torch.randn(num_tokens, num_words, generator=generator) for _ in range(num_texts)]
    return source, [s + 0.1 * torch.randn(s.shape, generator=generator) for s in source]


def test_distances_follow_their_definitions():
    source, other = pairs()
    found = compare_logits("x", source, other, [10, 14])
    p, q = (log_softmax(torch.cat(x).double().numpy(), axis=-1) for x in (source, other))
    kl = (np.exp(p) * (p - q)).sum(-1)
    difference = float((torch.cat(source) - torch.cat(other)).abs().max())
    assert found.num_positions == 60
    assert found.mean_kl == pytest.approx(kl.mean()) and found.max_kl == pytest.approx(kl.max())
    assert found.max_logit_difference == pytest.approx(difference)
    assert found.relative_logit_difference == pytest.approx(difference / float(torch.cat(source).abs().max()))
    assert found.top1_agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())


def test_greedy_agreement_ends_at_the_first_difference_and_starts_at_the_first_new_token():
    (source,), _ = pairs(num_texts=1, num_tokens=10 + NUM_NEW_TOKENS)
    other = source.clone()
    for position in (3, 9 + 4, 9 + 6, len(source) - 1):  # in the prompt, two of the new tokens, behind the last
        other[position, other[position].argmin()] = 99.0
    assert compare_logits("x", [source], [other], [10]).greedy_agreement == pytest.approx(4 / NUM_NEW_TOKENS)


def test_one_nan_is_seen_in_every_distance():
    source, other = pairs()
    other[0][5, 2] = float("nan")
    found = compare_logits("x", source, other, [10, 10])
    assert np.isnan([found.max_logit_difference, found.relative_logit_difference, found.mean_kl, found.max_kl]).all()


def test_other_numbers_of_texts_are_an_error():
    source, other = pairs()
    with pytest.raises(ValueError, match="shorter"):
        compare_logits("x", source, other[:1], [10, 10])


def test_spooled_logits_come_back_as_often_as_asked():
    logits = logits_of(MODEL, PROMPTS)
    with TemporaryFile() as file:
        spooled = Spooled(file, each_logits(MODEL, PROMPTS))
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(spooled, logits, strict=True))
        assert top1_changed(spooled, spooled) == 0.0


def test_changed_tokens_are_counted_over_all_positions():
    source = [torch.eye(4), torch.eye(3)]
    other = [torch.eye(4), torch.eye(3).flip(0)]
    assert top1_changed(source, other) == pytest.approx(2 / 7)
