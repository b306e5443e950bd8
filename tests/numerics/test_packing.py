"""Law: a packed row computes what its documents compute alone, and no document sees another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import distance, loss_model_of, make_samples, summed_nll, tiny_llama

from whet.data.packing import pack
from whet.kernels import select

LENGTHS = [17, 9, 30, 1, 5]


@pytest.fixture(params=[1024, 0], ids=["matmul", "flash"])
def longest(request):
    """Both ways through attention: matrix products per document, and torch's fused one."""
    return request.param


def _installed(longest=1024, dtype=torch.float64):
    model = tiny_llama(dtype)
    select.install(model, adapter_name=None, longest_matmul_document=longest)
    return model


def _gradients(model, nll):
    model.zero_grad()
    nll.backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


def test_packed_loss_hidden_states_and_gradients_equal_those_of_an_untouched_model(longest):
    samples = make_samples(LENGTHS)
    model, untouched = _installed(longest), tiny_llama()
    loss_model = loss_model_of(model)
    packed_TE = loss_model.hidden(pack(samples))
    alone_TE = torch.cat(
        [untouched.model(torch.tensor(s.ids[None].astype(np.int64)), use_cache=False).last_hidden_state[0]
         for s in samples]
    )  # fmt: skip
    torch.testing.assert_close(packed_TE, alone_TE, rtol=1e-10, atol=1e-10)
    nll = loss_model.nll_sum(pack(samples))
    expected = sum(summed_nll(untouched, s) for s in samples if s.num_tokens > 1)
    assert nll.item() == pytest.approx(expected.item(), rel=1e-10)
    assert distance(_gradients(model, nll), _gradients(untouched, expected)) < 1e-10


def test_in_float32_packing_changes_rounding_alone(longest):
    samples = make_samples(LENGTHS)
    model = _installed(longest, torch.float32)
    loss_model = loss_model_of(model)
    num_taught = sum(s.num_taught for s in samples)
    packed = loss_model.nll_sum(pack(samples)) / num_taught
    alone = sum(loss_model.nll_sum(pack([s])) for s in samples) / num_taught
    assert packed.item() == pytest.approx(alone.item(), abs=1e-6)
    assert distance(_gradients(model, packed), _gradients(model, alone)) < 1e-6


@pytest.mark.parametrize("edited", [0, 2, 4])
def test_editing_one_document_moves_no_other_at_all(longest, edited):
    samples = make_samples(LENGTHS)
    changed = list(samples)
    changed[edited] = replace(samples[edited], ids=samples[edited].ids[::-1] % 400 + 7)
    with torch.no_grad():
        loss_model = loss_model_of(_installed(longest, torch.float32))
        before = loss_model.hidden(pack(samples)).split(LENGTHS)
        after = loss_model.hidden(pack(changed)).split(LENGTHS)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(old, new) == (number != edited)


def test_the_model_is_told_positions_that_restart_at_every_document():
    """Rotary attention looks at differences of positions, so the outputs alone would hide wrong ones."""
    model = _installed()
    seen = []
    model.model.rotary_emb.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    loss_model_of(model).hidden(pack(make_samples(LENGTHS)))
    assert [positions.tolist() for positions in seen] == [[[t for n in LENGTHS for t in range(n)]]]


def test_order_and_company_of_a_document_do_not_matter(longest):
    samples = make_samples(LENGTHS)
    with torch.no_grad():
        loss_model = loss_model_of(_installed(longest))
        forwards = loss_model.hidden(pack(samples)).split(LENGTHS)
        backwards = loss_model.hidden(pack(samples[::-1])).split(LENGTHS[::-1])[::-1]
    for a, b in zip(forwards, backwards, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_micro_batch_without_a_taught_token_adds_zero():
    (sample,) = make_samples([7])
    untaught = replace(sample, taught=np.zeros(7, dtype=bool))
    model = _installed()
    nll = loss_model_of(model).nll_sum(pack([untaught]))
    assert nll.item() == 0.0
    assert not _gradients(model, nll).any()
