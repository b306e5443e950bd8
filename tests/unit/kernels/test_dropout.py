from dataclasses import replace

import numpy as np
import pytest
import torch
from shared_prefixes import begin_alike
from tiny import make_samples

from whet.data.packing import pack
from whet.kernels.dropout import DropoutState, StatelessDropout, _mix32_, _mix32_numpy, _splitmix

SAMPLES = make_samples([700, 1, 300, 500])


def _mask(samples, *, p=0.3, seed=1, step=0, name="layers.0.q_proj", channels=64):
    """float64 [T, channels], 1 = kept"""
    state = DropoutState(seed)
    dropout = StatelessDropout(p, module_name=name, state=state)
    with state.micro_batch(step, pack(samples)):
        return dropout.mask(channels, torch.device("cpu")).double()


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_the_share_of_kept_values_is_one_minus_p(p):
    keep_TC = _mask(SAMPLES, p=p)
    # five standard errors of a binomial share, over all values and over each channel and token
    for share, count in [(keep_TC.mean(), keep_TC.numel()), (keep_TC.mean(0), len(keep_TC)), (keep_TC.mean(1), 64)]:
        assert (share - (1 - p)).abs().max() < 5 * (p * (1 - p) / count) ** 0.5


@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 1}, {"name": "layers.0.k_proj"}])
def test_masks_of_other_seeds_steps_and_modules_are_independent(change):
    first, second = _mask(SAMPLES), _mask(SAMPLES, **change)
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert abs(float(correlation)) < 5 / first.numel() ** 0.5


def test_neighbouring_channels_positions_and_samples_are_independent():
    keep_TC = _mask(make_samples([1000, 1000]))
    pairs = [(keep_TC[:, :-1], keep_TC[:, 1:]), (keep_TC[:-1], keep_TC[1:]), (keep_TC[:1000], keep_TC[1000:])]
    for left, right in pairs:
        correlation = torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1]
        assert abs(float(correlation)) < 5 / left.numel() ** 0.5


def test_a_samples_mask_is_the_same_in_every_packing():
    together = _mask(SAMPLES).split([s.num_tokens for s in SAMPLES])
    backwards = _mask(SAMPLES[::-1]).split([s.num_tokens for s in SAMPLES[::-1]])[::-1]
    alone = [_mask([sample]) for sample in SAMPLES]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_the_mask_is_the_documented_function_of_its_coordinates():
    def splitmix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def murmur(x):
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    numbers = [0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0]
    assert _splitmix(np.array(numbers, dtype=np.uint64)).tolist() == [splitmix(x) for x in numbers]
    small = [0, 1, 2**31, 2**32 - 1, 0x89ABCDEF]
    mixed = _mix32_(torch.from_numpy(np.array(small, dtype=np.uint32).view(np.int32).copy()))
    assert mixed.numpy().view(np.uint32).tolist() == [murmur(x) for x in small]
    numbers = np.array(small, dtype=np.uint32)
    assert _mix32_numpy(numbers, np.empty_like(numbers)).tolist() == [murmur(x) for x in small]


@pytest.mark.parametrize("num_tokens", [1, 128, 300])
def test_numpy_and_torch_make_the_same_mask(num_tokens):
    """The CPU's way through numpy, in passes of 128 rows, and the way of other devices."""
    state = DropoutState(5)
    dropout = StatelessDropout(0.3, module_name="m", state=state)
    with state.micro_batch(2, pack(make_samples([num_tokens]))):
        mask = dropout.present_mask(37, torch.device("cpu"))
    assert torch.equal(mask.keep(), _mix32_(mask.rows_T1 ^ mask.columns_1C) >= mask.threshold)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_what_is_dropped_is_zero_and_the_rest_is_as_it_was(dtype):
    state = DropoutState(5)
    dropout = StatelessDropout(0.3, module_name="m", state=state)
    x_TC = torch.randn(150, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    with state.micro_batch(2, pack(make_samples([150]))):
        mask = dropout.present_mask(7, x_TC.device)
    expected_TC = torch.where(mask.keep(), x_TC, torch.zeros_like(x_TC))
    before_TC = x_TC.clone()
    assert torch.equal(mask.zero_dropped(x_TC), expected_TC) and torch.equal(x_TC, before_TC)
    assert mask.zero_dropped(x_TC, out=x_TC) is x_TC and torch.equal(x_TC, expected_TC)


def test_kept_values_are_scaled_and_evaluation_mode_is_the_identity():
    state = DropoutState(0)
    dropout = StatelessDropout(0.25, module_name="m", state=state)
    x_1TC = torch.ones(1, 8, 5)
    with state.micro_batch(0, pack(make_samples([5, 3]))):
        out_1TC = dropout(x_1TC)
        keep_TC = dropout.mask(5, x_1TC.device)
    assert torch.equal(out_1TC[0], keep_TC / 0.75)
    dropout.eval()
    assert dropout(x_1TC) is x_1TC


def test_dropout_outside_a_micro_batch_is_an_error():
    state = DropoutState(0)
    dropout = StatelessDropout(0.25, module_name="m", state=state)
    with state.micro_batch(0, pack(make_samples([5]))):
        pass
    with pytest.raises(RuntimeError, match="outside DropoutState"):
        dropout(torch.ones(1, 5, 5))


def test_no_random_generator_is_advanced():
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    _mask(SAMPLES)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]


def test_where_prefixes_may_be_shared_a_token_has_one_mask_in_every_pass():
    """Of a prefix too: whichever samples share it, and how much of it, and in one that is alone."""
    samples = begin_alike([20, 30, 25], 12) + begin_alike([20], 9, seed=5)
    samples[3] = replace(samples[3], ids=np.concatenate([samples[0].ids[:9], samples[3].ids[9:]]))

    def masks(*taken):
        batch = pack([samples[i] for i in taken], share_prefix=True)
        state = DropoutState(1)
        dropout = StatelessDropout(0.3, module_name="layers.0.q_proj", state=state)
        with state.micro_batch(3, batch):
            of_prefix, *parts = dropout.mask(64, torch.device("cpu")).split([batch.shared_prefix, *batch.lengths])
        return {i: torch.cat([of_prefix, part]) for i, part in zip(taken, parts, strict=True)}

    alone = {i: masks(i)[i] for i in range(4)}
    for taken in [(0, 1), (2, 1, 0), (0, 3), (3, 2, 1, 0)]:
        found = masks(*taken)
        assert all(torch.equal(found[i], alone[i]) for i in taken)
    assert torch.equal(alone[0][:12], alone[1][:12]) and torch.equal(alone[0][:9], alone[3][:9])
    assert not torch.equal(alone[0][12:20], alone[1][12:20])


def test_hashes_made_on_the_device_for_all_modules_at_once_have_the_bits_of_the_hosts():
    state = DropoutState(3)
    modules = [StatelessDropout(0.3, module_name=f"layers.{i}", state=state) for i in range(3)]
    batches = [pack(SAMPLES[:2]), pack(SAMPLES[2:])]
    for step, batch in enumerate(batches):
        with state.micro_batch(step, batch):
            if step == 1:  # a module that comes later
                modules.append(StatelessDropout(0.3, module_name="late", state=state))
            for module in modules:
                on_device = state.rows_on(module._module_key, torch.device("cpu"))
                assert on_device.dtype == torch.int32
                assert torch.equal(on_device, state.rows(module._module_key))
    with pytest.raises(RuntimeError, match="outside"):
        state.rows_on(modules[0]._module_key, torch.device("cpu"))


def test_off_the_cpu_a_mask_is_made_of_the_devices_hashes(monkeypatch):
    state = DropoutState(3)
    dropout = StatelessDropout(0.3, module_name="layers.0", state=state)
    monkeypatch.setattr(DropoutState, "rows", lambda *_: pytest.fail("made by the host"))
    with state.micro_batch(0, pack(SAMPLES)):
        mask = dropout.present_mask(64, torch.device("meta"))
    assert mask.rows_T1.device.type == mask.columns_1C.device.type == "meta"
    assert mask.rows_T1.shape == (1501, 1) and mask.columns_1C.shape == (1, 64)


def test_ranks_that_hold_some_channels_of_a_row_see_that_part_of_its_mask():
    state = DropoutState(1)
    dropout = StatelessDropout(0.3, module_name="layers.0.down_proj", state=state)
    with state.micro_batch(0, pack(SAMPLES)):
        whole = dropout.mask(64, torch.device("cpu"))
        dropout.first_channel = 40
        assert torch.equal(dropout.mask(24, torch.device("cpu")), whole[:, 40:])
