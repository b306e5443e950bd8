"""The numbers that `whet inspect` shows, against plain loops over the same samples."""

import json
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.inspect import (
    answer_lengths,
    count_special_tokens,
    find_row,
    length_histogram,
    summarise_packing,
    summarise_set,
    view_passes,
)
from whet.types import Ledger, TokenizedSample, TokenizedSet


def _sample(tokenizer, prompt, answers, name="s"):
    """Prompt, then every answer taught with its end token, each followed by an untaught line break."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    taught = [False] * len(ids)
    for answer in answers:
        piece = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids += [*piece, *tokenizer("\n", add_special_tokens=False)["input_ids"]]
        taught += [True] * len(piece) + [False]
    return TokenizedSample(id=name, ids=np.array(ids, dtype=np.int32), taught=np.array(taught))


def _set(samples):
    ledger = Ledger(name="train", num_rows=len(samples), num_kept=len(samples), rows=())
    return TokenizedSet(
        samples=samples, source_sizes=(len(samples),), ledger=ledger, fingerprint="0",
        lengths=np.array([sample.num_tokens for sample in samples], dtype=np.int32),
        num_taught=np.array([sample.num_taught for sample in samples], dtype=np.int32),
    )  # fmt: skip


@given(lengths=st.lists(st.integers(1, 200_000), min_size=1, max_size=40))
def test_every_length_falls_into_one_bin_of_round_width(lengths):
    histogram = length_histogram(np.array(lengths, dtype=np.int32))
    bins = list(zip(histogram.edges, histogram.edges[1:], strict=False))
    assert [sum(low <= length < high for length in lengths) for low, high in bins] == list(histogram.counts)
    assert sum(histogram.counts) == len(lengths)
    assert len(bins) <= 12
    (width,) = {high - low for low, high in bins}
    assert str(width).rstrip("0") in ("1", "2", "5")
    assert histogram.counts[0] > 0 < histogram.counts[-1]


def test_an_empty_set_has_no_bins():
    assert length_histogram(np.zeros(0, dtype=np.int32)).counts == ()


def test_every_taught_turn_is_an_answer_and_its_words_are_counted(chatml):
    samples = [
        _sample(chatml, "a question with many words", [" ".join(["word"] * n)]) for n in (99, 100, 299, 300, 301)
    ]
    samples.append(_sample(chatml, "two turns", ["one two", "three "]))
    found = answer_lengths(samples, chatml)
    words = [99, 100, 299, 300, 301, 2, 1]
    assert found.num_answers == 7
    assert found.median_words == statistics.median(words)
    assert found.mean_words == pytest.approx(statistics.mean(words))
    assert (found.share_concise, found.share_medium, found.share_long) == (3 / 7, 2 / 7, 2 / 7)


def test_a_set_that_teaches_nothing_has_no_answers(chatml):
    assert answer_lengths([], chatml) is None


def test_a_large_set_is_read_evenly(chatml, monkeypatch):
    monkeypatch.setattr("whet.data.inspect._MOST_ANSWERS", 3)
    samples = [_sample(chatml, "q", [" ".join(["word"] * n)]) for n in range(1, 12)]
    found = answer_lengths(samples, chatml)
    assert (found.num_answers, found.mean_words) == (3, (1 + 6 + 11) / 3)


def test_fiqa_answers_have_the_lengths_of_their_file(test_data, chatml):
    lines = (test_data / "fiqa" / "fiqa_main_schema_333.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["ground_truths"][0] for line in lines]
    found = answer_lengths([_sample(chatml, "q", [answer]) for answer in answers], chatml)
    words = [len(answer.split()) for answer in answers]
    assert (found.num_answers, found.median_words) == (333, statistics.median(words))
    assert found.mean_words == pytest.approx(statistics.mean(words))
    assert [round(100 * share, 1) for share in (found.share_concise, found.share_medium, found.share_long)] == [
        30.3, 52.0, 17.7
    ]  # fmt: skip


def test_control_tokens_are_counted_and_those_with_a_meaning_are_named_even_at_zero(chatml, llama3, monkeypatch):
    monkeypatch.setattr("whet.data.inspect._CHUNK_SAMPLES", 2)
    samples = [_sample(chatml, "<|im_start|>user\nHi<|im_end|>", ["yes", "no"]) for _ in range(5)]
    found = {token.text: token for token in count_special_tokens(samples, chatml, [2])}
    assert set(found) == {"<|im_start|>", "<|im_end|>"}
    start, end = found["<|im_start|>"], found["<|im_end|>"]
    assert (start.id, start.count, start.num_taught, start.meaning) == (1, 5, 0, "beginning of sequence")
    assert (end.id, end.count, end.num_taught, end.meaning) == (2, 15, 10, "end of turn, padding")
    bare = [_sample(llama3, "no control token", ["yes"])]
    found = {token.text: token.count for token in count_special_tokens(bare, llama3, [4])}
    assert found == {"<|begin_of_text|>": 0, "<|eot_id|>": 1}


def test_a_control_token_that_nobody_calls_special_still_counts(llama3):
    samples = [_sample(llama3, "<|start_header_id|>user", ["x"])]
    found = {token.text: token.meaning for token in count_special_tokens(samples, llama3, [1, 4])}
    assert found == {
        "<|begin_of_text|>": "beginning of sequence", "<|end_of_text|>": "end of turn",
        "<|start_header_id|>": "other", "<|eot_id|>": "end of turn",
    }  # fmt: skip


def test_packing_figures_follow_by_hand():
    lengths = np.array([4, 4, 4, 4, 8, 8, 8, 8], dtype=np.int32)
    found = summarise_packing(lengths, capacity=12, seed=0)
    # one padded batch of 8 x 8 for 48 tokens; four packs of 8 + 4
    assert (found.padded_batch_size, found.padding_share) == (8, 0.25)
    assert (found.capacity, found.num_packs, found.pack_efficiency) == (12, 4, 1.0)
    assert summarise_packing(lengths[:0], capacity=12, seed=0) is None


def test_padding_is_that_of_shuffled_batches():
    """Sorted by length there would be next to none."""
    lengths = np.repeat(np.array([10, 100], dtype=np.int32), 80)
    assert summarise_packing(lengths, capacity=100, seed=0).padding_share > 0.3


def test_a_summary_counts_tokens_of_one_epoch(chatml):
    samples = [_sample(chatml, "q " * n, ["yes"]) for n in range(1, 6)]
    found = summarise_set("train", _set(samples), chatml, end_ids=[2], capacity=64, seed=0)
    lengths = [sample.num_tokens for sample in samples]
    assert (found.num_samples, found.num_tokens) == (5, sum(lengths))
    assert (found.shortest, found.median, found.longest) == (min(lengths), statistics.median(lengths), max(lengths))
    assert found.num_taught == sum(int(sample.taught.sum()) for sample in samples)
    assert found.ledger.num_rows == 5


def test_passes_are_shown_in_the_given_order_until_enough_is_shown(chatml):
    samples = [_sample(chatml, "q " * n, ["yes"], name=f"s{n}") for n in range(6)]
    passes = [np.array([4, 0]), np.array([], dtype=np.int64), [2, 3]]
    first, last = view_passes(samples, passes, chatml, end_ids=[2], most_tokens=10_000)
    assert [document.id for document in first.documents] == ["s4", "s0"]
    assert [document.number for document in last.documents] == [3, 4]
    assert (first.number, last.number) == (1, 3)
    assert first.num_tokens == samples[4].num_tokens + samples[0].num_tokens
    assert [token.position for token in first.documents[1].tokens] == list(range(samples[0].num_tokens))
    (short,) = view_passes(samples, passes, chatml, end_ids=[2], most_tokens=1)
    assert (len(short.documents), short.num_documents, short.num_tokens) == (1, 2, first.num_tokens)


def test_a_row_is_found_by_number_or_id(chatml):
    samples = [_sample(chatml, "q", ["yes"], name=name) for name in ("b-0", "3-0", "c-0")]
    assert [find_row(samples, wanted) for wanted in ("1", "3", "c-0", "3-0")] == [0, 2, 2, 1]
    assert [find_row(samples, wanted) for wanted in ("0", "4", "-1", "x", "\u00b2", "")] == [None] * 6
