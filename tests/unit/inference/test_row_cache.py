import pytest
import torch

from whet.inference.row_cache import BLOCK, RowCache

NUM_KV, DIM = 2, 3


@pytest.fixture
def cache():
    return RowCache(
        num_layers=2, num_rows=3, num_kv_heads=NUM_KV, head_dim=DIM, dtype=torch.float32, device=torch.device("cpu")
    )


def _tokens(num, first=0.0):
    """[1, K, num, D] with distinct values"""
    return torch.arange(num * NUM_KV * DIM, dtype=torch.float32).view(1, num, NUM_KV, DIM).transpose(1, 2) + first


def _read(cache, documents):
    """Files distinct keys for `documents` in both layers; returns {(layer, row): keys [K, length, D]}."""
    cache.read_prompts(documents)
    filed = {}
    for layer in (0, 1):
        keys = _tokens(sum(n for _, n in documents), first=1000.0 * layer)
        out_keys, out_values = cache.update(keys, -keys, layer)
        assert out_keys is keys and torch.equal(out_values, -keys)
        start = 0
        for row, length in documents:
            filed[layer, row] = keys[0, :, start : start + length]
            start += length
    return filed


def test_a_decoding_step_sees_each_rows_prompt_and_its_new_token(cache):
    documents = [(0, 4), (1, 1), (2, 6)]
    filed = _read(cache, documents)
    cache.append(torch.tensor([4, 1, 6]))
    for layer in (0, 1):
        new = torch.full((3, NUM_KV, 1, DIM), 7.0 + layer)
        keys, values = cache.update(new, -new, layer)
        assert keys.shape == (3, NUM_KV, cache.capacity, DIM)
        for row, length in documents:
            assert torch.equal(keys[row, :, :length], filed[layer, row])
            assert torch.equal(values[row, :, :length], -filed[layer, row])
            assert (keys[row, :, length] == 7.0 + layer).all() and (values[row, :, length] == -7.0 - layer).all()


def test_only_the_rows_in_use_are_handed_back(cache):
    _read(cache, [(0, 4), (1, 2)])
    cache.append(torch.tensor([4]))
    keys, _ = cache.update(torch.zeros(1, NUM_KV, 1, DIM), torch.zeros(1, NUM_KV, 1, DIM), 0)
    assert keys.shape[0] == 1


def test_moving_a_row_copies_keys_and_values_of_all_layers(cache):
    filed = _read(cache, [(0, 4), (1, 2), (2, 6)])
    cache.move(2, 0, 6)
    cache.append(torch.tensor([6, 2]))
    for layer in (0, 1):
        new = torch.zeros(2, NUM_KV, 1, DIM)
        keys, values = cache.update(new, new, layer)
        assert torch.equal(keys[0, :, :6], filed[layer, 2]) and torch.equal(values[0, :, :6], -filed[layer, 2])
        assert torch.equal(keys[1, :, :2], filed[layer, 1])


def test_capacity_grows_in_blocks_and_keeps_what_is_there(cache):
    filed = _read(cache, [(0, BLOCK)])
    assert cache.capacity == BLOCK == cache.get_seq_length()
    cache.append(torch.tensor([BLOCK]))
    assert cache.capacity == 2 * BLOCK
    keys, _ = cache.update(torch.ones(1, NUM_KV, 1, DIM), torch.ones(1, NUM_KV, 1, DIM), 1)
    assert torch.equal(keys[0, :, :BLOCK], filed[1, 0])
    assert (keys[0, :, BLOCK] == 1).all() and not keys[0, :, BLOCK + 1 :].any()
