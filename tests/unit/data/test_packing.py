import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_prefixes import begin_alike
from tiny import make_samples

from whet.data.packing import IGNORED, pack, padding_share, sample_key, shift_labels
from whet.types import TokenizedSample

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def _brute_force_labels(samples):
    """Position by position, from the definition."""
    labels = []
    for sample in samples:
        for t in range(sample.num_tokens):
            follows = t + 1 < sample.num_tokens and sample.taught[t + 1]
            labels.append(int(sample.ids[t + 1]) if follows else IGNORED)
    return labels


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 99))
def test_labels_are_the_next_taught_token_of_the_same_document(lengths, seed):
    samples = make_samples(lengths, seed=seed)
    batch = pack(samples)
    assert batch.labels_T.tolist() == _brute_force_labels(samples)
    assert batch.num_taught == sum(s.num_taught for s in samples)
    assert batch.taught_N.tolist() == [t for t, label in enumerate(batch.labels_T.tolist()) if label != IGNORED]


@settings(deadline=None)
@given(LENGTHS)
def test_offsets_are_the_borders_of_the_documents_in_32_bits(lengths):
    batch = pack(make_samples(lengths))
    assert batch.offsets_D.tolist() == [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    assert batch.offsets_D.dtype == torch.int32


@settings(deadline=None)
@given(LENGTHS)
def test_positions_restart_at_every_document(lengths):
    batch = pack(make_samples(lengths))
    assert batch.positions_T.tolist() == [t for length in lengths for t in range(length)]
    assert batch.lengths == tuple(lengths)


def test_no_label_crosses_a_border_even_when_every_token_is_taught():
    samples = [replace(s, taught=np.ones(s.num_tokens, dtype=bool)) for s in make_samples([4, 1, 3])]
    batch = pack(samples)
    assert batch.labels_T[[3, 4, 7]].tolist() == [IGNORED] * 3
    assert batch.num_taught == 5 == sum(s.num_taught for s in samples)


def test_ids_are_laid_end_to_end_in_int64():
    samples = make_samples([4, 2])
    batch = pack(samples)
    assert batch.ids_T.tolist() == [*samples[0].ids.tolist(), *samples[1].ids.tolist()]
    assert batch.ids_T.dtype == batch.labels_T.dtype == batch.positions_T.dtype == torch.int64


def test_nothing_packs_to_an_empty_batch():
    batch = pack([])
    assert batch.ids_T.shape == batch.labels_T.shape == batch.positions_T.shape == (0,)
    assert batch.lengths == () and batch.num_taught == 0


def test_a_document_of_one_token_has_no_label():
    sample = TokenizedSample(id="x", ids=np.array([7], dtype=np.int32), taught=np.array([True]))
    assert shift_labels(sample).tolist() == [IGNORED]


@pytest.mark.parametrize("sample_id", ["gsm8k-17", "\u00e4", "\udcff", ""])
def test_a_samples_key_depends_on_its_id_alone(sample_id):
    key = sample_key(sample_id)
    assert 0 <= key < 2**63
    digest = hashlib.sha256(sample_id.encode("utf-8", "surrogatepass")).hexdigest()
    assert key == int(digest[:16], 16) // 2
    assert key != sample_key(sample_id + "x")


def test_the_padding_that_is_saved_is_that_of_batches_padded_to_their_longest():
    assert padding_share(np.array([1, 3, 2, 2]), 2) == pytest.approx(1 - 8 / 10)
    assert padding_share(np.array([], dtype=np.int32), 2) == 0


def test_a_shared_prefix_stands_once_before_what_is_left_of_each_document():
    samples = begin_alike([4, 2], 10)
    batch = pack(samples, share_prefix=True)
    alone = [pack([sample]) for sample in samples]
    for name in ("ids_T", "positions_T", "labels_T"):
        first, second = (getattr(each, name).tolist() for each in alone)
        assert getattr(batch, name).tolist() == first[:10] + first[10:] + second[10:]
    assert (batch.shared_prefix, batch.lengths) == (10, (4, 2))
    assert batch.offsets_D.tolist() == [0, 14, 26]
    assert batch.num_taught == sum(each.num_taught for each in alone)
    assert len(batch.mask_keys_T) == len(batch.ids_T) and batch.mask_keys_T.dtype == np.uint64


def test_nothing_is_shared_unless_asked():
    batch = pack(begin_alike([4, 2], 10))
    assert (batch.shared_prefix, batch.lengths, batch.mask_keys_T) == (0, (14, 12), None)


def test_nothing_to_share_packs_as_without_sharing_but_for_the_seeds_of_masks():
    samples = make_samples([4, 30, 2])
    shared, plain = pack(samples, share_prefix=True), pack(samples)
    assert shared.ids_T.equal(plain.ids_T) and shared.positions_T.equal(plain.positions_T)
    assert (shared.shared_prefix, shared.lengths) == (0, plain.lengths)
    assert pack([], share_prefix=True).lengths == ()
