"""Against a plain loop over the vocabulary, and against the softmax by frequency."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from whet.inference.sampling import row_stream, sample


def draw_by_hand(logits: list[float], uniform: float, *, temperature: float, top_k: int, top_p: float) -> int:
    """The token that the rules give, one Python float at a time."""
    largest = max(logits)
    ranked = sorted(range(len(logits)), key=lambda i: -logits[i])[: top_k or None]
    weights = {i: np.exp((logits[i] - largest) / temperature) for i in ranked}
    total = sum(weights.values())
    kept, mass = [], 0.0
    for i in ranked:
        if mass >= top_p:
            break
        kept.append(i)
        mass += weights[i] / total
    # the order in which tokens share out [0, 1): by probability where the set was narrowed, else by number
    order = kept if top_k or top_p < 1 else sorted(kept)
    target, reached = uniform * sum(weights[i] for i in kept), 0.0
    for i in order:
        reached += weights[i]
        if target < reached:
            return i
    return order[-1]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.5), (0, 1e-9), (7, 0.8), (99, 0.95)])
def test_every_draw_is_the_one_of_a_plain_loop(temperature, top_k, top_p):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (40, 23))
    uniforms = rng.random(40)
    found = sample(
        torch.tensor(logits), torch.tensor(uniforms), temperature=temperature, top_k=top_k, top_p=top_p
    ).tolist()
    top_k = top_k if top_k < 23 else 0
    rule = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    assert found == [draw_by_hand(list(row), u, **rule) for row, u in zip(logits, uniforms, strict=True)]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.6, 4, 1.0), (1.5, 0, 0.7), (1.0, 6, 0.9)]
)
def test_tokens_come_as_often_as_their_probability_says(temperature, top_k, top_p):
    num_draws, logits = 20_000, torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, 0.7, -0.3, 1.9])
    weights = (logits.double() / temperature).exp()
    order = weights.argsort(descending=True)
    if top_k:
        weights[order[top_k:]] = 0
    shares = weights / weights.sum()
    before = shares[order].cumsum(0) - shares[order]
    weights[order[before >= top_p]] = 0
    expected = (weights / weights.sum()).numpy() * num_draws
    uniforms = torch.tensor(row_stream(1, "row").random(num_draws))
    drawn = sample(logits.expand(num_draws, -1), uniforms, temperature=temperature, top_k=top_k, top_p=top_p)
    counts = np.bincount(drawn.numpy(), minlength=8)
    assert counts[expected == 0].sum() == 0
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 0.001


def test_the_ends_of_the_unit_interval_draw_tokens_that_can_be_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert sample(logits, ends, temperature=1.0).tolist() == [1, 2]
    assert sample(logits, ends, temperature=1.0, top_p=0.9).tolist() == [1, 2]


def test_a_row_s_stream_depends_on_seed_and_key_alone():
    first = row_stream(7, "a").random(4).tolist()
    assert row_stream(7, "a").random(4).tolist() == first
    others = [row_stream(8, "a"), row_stream(7, "b"), row_stream(7, ""), row_stream(7, "\ud800")]
    drawn = [tuple(stream.random(4)) for stream in others]
    assert len({tuple(first), *drawn}) == 5
