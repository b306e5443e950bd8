from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_prefixes import begin_alike
from tiny import make_samples

from whet.data import shared_prefix
from whet.data.shared_prefix import (
    SHORTEST,
    common_prefix,
    describe_sharing,
    estimate_common_prefix,
    mask_keys,
    num_sharable,
    pays,
)
from whet.types import TokenizedSample


def _sample(ids, taught):
    return TokenizedSample(id="x", ids=np.array(ids, dtype=np.int32), taught=np.array(taught, dtype=bool))


SAMPLES = st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=12).map(
    lambda tokens: _sample([token for token, _ in tokens], [taught for _, taught in tokens])
)


@settings(deadline=None)
@given(SAMPLES)
def test_as_much_may_be_shared_as_predicts_nothing_and_leaves_a_token(sample):
    fitting = [n for n in range(sample.num_tokens) if not sample.taught[1 : n + 1].any()]
    assert num_sharable(sample) == max(fitting)


@settings(deadline=None)
@given(st.lists(SAMPLES, min_size=2, max_size=4), st.integers(0, 14))
def test_the_common_prefix_is_the_longest_that_all_begin_with_and_may_share(samples, num_alike):
    alike = np.zeros(num_alike)
    samples = [_sample([*alike, *s.ids], [*alike, *s.taught]) for s in samples]
    longest = max(
        n
        for n in range(min(num_sharable(s) for s in samples) + 1)
        if all(s.ids[:n].tolist() == samples[0].ids[:n].tolist() for s in samples)
    )
    assert common_prefix(samples) == (longest if longest >= SHORTEST else 0)


def test_one_sample_and_none_share_nothing():
    assert common_prefix([]) == common_prefix(begin_alike([5], 20)) == 0


def test_a_large_set_is_judged_by_samples_spread_over_it(monkeypatch):
    samples = begin_alike([5] * 40, 20)
    assert estimate_common_prefix(samples) == common_prefix(samples) == 20
    monkeypatch.setattr(shared_prefix, "_MOST_SAMPLES_LOOKED_AT", 10)
    stray = make_samples([30], seed=4)
    assert estimate_common_prefix([*samples[:32], *stray, *samples[33:]]) == 0
    assert estimate_common_prefix([*samples[:33], *stray, *samples[34:]]) == 20
    assert estimate_common_prefix([]) == 0


@pytest.mark.parametrize(("num_shared", "expected"), [(0, False), (9, False), (10, True)])
def test_auto_shares_from_a_twentieth_of_the_tokens_on(num_shared, expected):
    assert pays("auto", num_shared, np.array([100, 300], dtype=np.int32)) is expected


def test_the_recipe_may_say_so_itself():
    lengths = np.array([100], dtype=np.int32)
    assert pays(True, 0, lengths) and not pays(False, 90, lengths)


def test_a_sharable_token_is_seeded_by_the_ids_up_to_it_and_the_others_by_their_sample():
    first, second = begin_alike([10, 10], 20)
    again = replace(second, ids=np.concatenate([first.ids[:15], second.ids[15:]]), taught=second.taught)
    keys = [mask_keys(sample, key) for key, sample in enumerate((first, again, second))]
    assert np.array_equal(keys[0][:20], keys[2][:20])
    changed = replace(first, ids=np.concatenate([first.ids[:7], [first.ids[7] + 1], first.ids[8:]]).astype(np.int32))
    other = mask_keys(changed, 0)
    assert np.array_equal(other[:7], keys[0][:7]) and not (other[7:20] == keys[0][7:20]).any()
    for key, sample in enumerate((first, again, second)):
        assert (keys[key][num_sharable(sample) :] == key).all()
        assert len(set(keys[key][: num_sharable(sample)].tolist())) == num_sharable(sample)


def test_what_is_saved_is_told_in_tokens_and_as_a_share():
    said = describe_sharing(10, np.array([40, 60], dtype=np.int32))
    assert said == "the 10 tokens that all samples begin with are computed once per pass, up to 20.0% fewer tokens"
