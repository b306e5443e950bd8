"""Law: a prefix that is computed once for all samples of a pass changes neither loss nor gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from kept_bytes import KeptBytes
from shared_prefixes import begin_alike, widen_norms
from tiny import (
    LORA,
    build_training,
    distance,
    gradients,
    loss_model_of,
    make_plan,
    make_samples,
    run_steps,
    summed_nll,
    tiny_llama,
    values,
)
from torch.utils.flop_counter import FlopCounterMode

from whet.data.packing import pack
from whet.kernels import recompute, select
from whet.recipe.schema import Adapter, Optim
from whet.train.held_out import evaluate_loss

NO_CLIPPING = Optim(lr=1e-3, schedule="constant", warmup=0, max_grad_norm=0)
ADAPTERS = {"lora": LORA, "lora with dropout": Adapter(rank=4, alpha=8.0, dropout=0.3), "all weights": None}


def all_but_the_answer(num_samples):
    """One prompt of 20 tokens, many answers of other lengths."""
    samples = begin_alike(list(range(3, 3 + num_samples)), 20)
    return [replace(s, taught=np.arange(s.num_tokens) >= 20) for s in samples]


# name -> (samples, tokens that are shared)
PACKS = {
    "begin alike": (begin_alike([17, 9, 30, 5, 12], 11), 11),
    "nothing in common": (make_samples([17, 9, 30]), 0),
    "too little in common": (begin_alike([17, 9, 30], 7), 0),
    "one sample": (begin_alike([17], 11), 0),
    "all but the answer": (all_but_the_answer(4), 19),
    "twice the same": (begin_alike([30], 11) * 2, 22),
    "short ones in one tile": (begin_alike([2, 3, 4, 5, 6, 40], 9), 9),
    "tiles of several": (begin_alike([150, 70, 300], 160), 160),
}


@pytest.fixture(params=[10_000, 0, 60], ids=["matmul", "flash", "some flash"])
def longest(request):
    """The ways through attention: rows that are all short, all long, or mixed."""
    return request.param


def _model(longest=10_000, **shape):
    model = tiny_llama(**shape)
    select.install(model, adapter_name=None, longest_matmul_document=longest)
    widen_norms(model)
    return model


def _gradients(model, nll):
    model.zero_grad()
    nll.backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("name", PACKS)
def test_loss_and_gradients_equal_those_of_an_untouched_model_one_sample_at_a_time(name, longest):
    samples, num_shared = PACKS[name]
    batch = pack(samples, share_prefix=True)
    assert batch.shared_prefix == num_shared
    assert len(batch.ids_T) == sum(s.num_tokens for s in samples) - num_shared * (len(samples) - 1)
    assert batch.num_taught == sum(s.num_taught for s in samples)
    model, untouched = _model(longest), tiny_llama()
    widen_norms(untouched)
    nll = loss_model_of(model).nll_sum(batch)
    expected = sum(summed_nll(untouched, s) for s in samples)
    assert nll.item() == pytest.approx(expected.item(), rel=1e-10)
    assert distance(_gradients(model, nll), _gradients(untouched, expected)) < 1e-10


@pytest.mark.parametrize("num_kv_heads", [1, 4])
def test_so_they_do_with_one_key_head_and_with_as_many_as_query_heads(num_kv_heads):
    samples, _ = PACKS["begin alike"]
    model, untouched = (make(num_kv_heads=num_kv_heads) for make in (_model, tiny_llama))
    widen_norms(untouched)
    nll = loss_model_of(model).nll_sum(pack(samples, share_prefix=True))
    expected = sum(summed_nll(untouched, s) for s in samples)
    assert distance(_gradients(model, nll), _gradients(untouched, expected)) < 1e-10


def test_in_float32_sharing_changes_rounding_alone(longest):
    samples, _ = PACKS["begin alike"]
    model = tiny_llama(torch.float32)
    select.install(model, adapter_name=None, longest_matmul_document=longest)
    found, expected = (loss_model_of(model).nll_sum(pack(samples, share_prefix=on)) for on in (True, False))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert distance(_gradients(model, found), _gradients(model, expected)) < 1e-6


def test_editing_one_sample_moves_neither_the_prefix_nor_another_sample_at_all(longest):
    samples, num_shared = PACKS["begin alike"]
    edited = replace(samples[2], ids=np.concatenate([samples[2].ids[:num_shared], samples[2].ids[num_shared:][::-1]]))
    changed = [*samples[:2], edited, *samples[3:]]
    with torch.no_grad():
        loss_model = loss_model_of(_model(longest))
        sizes = [num_shared, *(s.num_tokens - num_shared for s in samples)]
        before, after = (
            loss_model.hidden(pack(each, share_prefix=True)).split(sizes) for each in (samples, changed)
        )  # fmt: skip
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(old, new) == (number != 3)


def test_the_model_is_told_positions_that_go_on_behind_the_prefix():
    """Rotary attention looks at differences of positions, so the outputs alone would hide some wrong ones."""
    seen = []
    model = _model()
    model.model.rotary_emb.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    loss_model_of(model).hidden(pack(begin_alike([4, 2], 10), share_prefix=True))
    assert [positions.tolist() for positions in seen] == [[[*range(10), 10, 11, 12, 13, 10, 11]]]


def _training(samples, micro_batch, *, shares=True, adapter=LORA, dtype=torch.float64, level="none"):
    plan = make_plan(len(samples), micro_batch=micro_batch, global_batch=4, total_steps=4)
    plan = replace(plan, share_prefix=shares)
    run = build_training(tiny_llama(dtype), samples, plan, adapter=adapter, optim=NO_CLIPPING, validation=samples[::-1])
    if dtype == torch.float64:
        widen_norms(run.model)
    recompute.install(run.model, level)
    return run


FAMILIES = begin_alike([17, 9, 30], 11) + begin_alike([17, 9, 30], 14, seed=1)
"""Two prefixes: which of them a pass shares, or neither, depends on how the step is cut."""


@pytest.mark.parametrize("step", [0, 1], ids=["full step", "short step"])
@pytest.mark.parametrize("samples", [PACKS["begin alike"][0], FAMILIES], ids=["one prefix", "two prefixes"])
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_loss_and_gradients_do_not_depend_on_the_split(adapter, samples, step):
    alone, *others = (_training(samples, micro_batch, adapter=adapter) for micro_batch in (1, 2, 4))
    (expected,) = run_steps(alone, [step])
    for run in others:
        (record,) = run_steps(run, [step])
        assert (record.num_tokens, record.num_taught) == (expected.num_tokens, expected.num_taught)
        assert record.loss == pytest.approx(expected.loss, rel=1e-10)
        assert distance(gradients(run), gradients(alone)) < 1e-10


@pytest.mark.parametrize("adapter", [LORA, None], ids=["lora", "all weights"])
def test_without_dropout_a_run_that_shares_is_the_run_that_does_not(adapter):
    samples, _ = PACKS["begin alike"]
    sharing, plain = (_training(samples, 4, shares=on, adapter=adapter) for on in (True, False))
    start = values(plain)
    found, expected = run_steps(sharing), run_steps(plain)
    assert [r.num_tokens for r in found] == [r.num_tokens for r in expected]
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-8)
    assert distance(values(sharing) - start, values(plain) - start) < 1e-6
    assert evaluate_loss(sharing) == pytest.approx(evaluate_loss(plain), rel=1e-8)


@pytest.mark.parametrize("level", ["norms", "mlp", "full"])
def test_recomputing_gives_the_same_bits(level):
    samples, dropout = PACKS["begin alike"][0], ADAPTERS["lora with dropout"]
    plain, again = (_training(samples, 2, adapter=dropout, dtype=torch.float32, level=each) for each in ("none", level))
    assert [(r.loss, r.grad_norm) for r in run_steps(again)] == [(r.loss, r.grad_norm) for r in run_steps(plain)]
    assert torch.equal(values(again), values(plain))


def test_two_runs_give_the_same_bits():
    runs = [_training(FAMILIES, 4, adapter=ADAPTERS["lora with dropout"], dtype=torch.float32) for _ in range(2)]
    first, second = ([(r.loss, r.grad_norm) for r in run_steps(run)] for run in runs)
    assert first == second and torch.equal(values(runs[0]), values(runs[1]))


def _cost(samples, *, shares):
    """(FLOPs of a forward and a backward pass, bytes that the former keeps for the latter)"""
    model = tiny_llama(torch.float32)
    select.install(model, adapter_name=None)
    batch = pack(samples, share_prefix=shares)
    with FlopCounterMode(display=False) as flops, KeptBytes() as kept:
        nll = loss_model_of(model).nll_sum(batch)
        num_kept = kept.total
        nll.backward()
    return flops.get_total_flops(), num_kept


def test_a_shared_token_costs_neither_products_nor_memory_again():
    """Of all weights three products a token, of attention six for each pair of query and key that meet in a tile."""
    num_samples, own, num_shared = 5, 60, 40
    samples = begin_alike([own] * num_samples, num_shared)
    (flops, kept), (flops_without, kept_without) = (_cost(samples, shares=on) for on in (True, False))
    config = tiny_llama().config
    layers = tiny_llama().model.layers
    num_weights = sum(w.numel() for name, w in layers.named_parameters() if "proj" in name)
    pairs = num_samples * (num_shared + own) ** 2
    pairs_left = num_samples * own * (num_shared + own) + num_shared**2
    attention = 6 * 2 * len(layers) * config.num_attention_heads * config.head_dim * (pairs - pairs_left)
    tokens_saved = (num_samples - 1) * num_shared
    assert flops_without - flops == 3 * 2 * num_weights * tokens_saved + attention
    tokens = num_samples * (num_shared + own)
    assert kept < kept_without * (tokens - 0.9 * tokens_saved) / tokens
