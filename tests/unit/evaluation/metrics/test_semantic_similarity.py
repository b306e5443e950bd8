"""Sentence vectors are BERT's states averaged over a text's own word pieces; cosines are the best over the golds."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from whet.evaluation.metrics import AnsweredRow, semantic_similarity, sentence_encoder

WORDS = ["cat", "dog", "mat", "sat", "the", "on", "ran", "far", "##s"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT in the form of the real one, its tokenizer with limits of its own as the real one's has."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=300, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return sentence_encoder.load_encoder(folder)


def vector_by_hand(encoder, text: str) -> np.ndarray:
    ids = encoder.tokenizer.encode(text).ids
    with torch.inference_mode():
        states = encoder.model(torch.tensor([ids])).last_hidden_state[0].numpy()
    mean = np.mean([states[i] for i in range(len(ids))], axis=0)
    return mean / np.sqrt((mean**2).sum())


TEXTS = ["cat", "the cat sat on the mat", "dogs ran far " * 20, "", "mats", "the dog ran"]


def test_a_vector_is_the_unit_mean_of_the_texts_own_states_whatever_it_is_batched_with(encoder, monkeypatch):
    expected = np.stack([vector_by_hand(encoder, text) for text in TEXTS])
    for batch in (1, 2, 32):
        monkeypatch.setattr(sentence_encoder, "BATCH_TEXTS", batch)
        vectors, was_cut = encoder.embed(TEXTS)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert not was_cut.any()


def test_what_is_longer_than_256_word_pieces_is_cut_and_counted(encoder):
    exact, longer = "cat " * 254, "cat " * 255
    vectors, was_cut = encoder.embed([exact, longer, longer + "dog ran far"])
    assert was_cut.tolist() == [False, True, True]
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)
    rows = [AnsweredRow(text=longer, golds=("cat", exact)), AnsweredRow(text="dog", golds=("cat",))]
    assert semantic_similarity.count_cut(rows, encoder) == (1, 4)


def test_a_score_is_the_best_cosine_over_the_golds(encoder):
    golds = ("the dog ran", "cats")
    vectors = [vector_by_hand(encoder, text) for text in ("the cat sat", *golds)]
    expected = max(float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2]))
    rows = [AnsweredRow(text="the cat sat", golds=golds), AnsweredRow(text="x"), AnsweredRow(text=" ", golds=golds)]
    assert semantic_similarity.score_rows(rows, encoder) == [pytest.approx(expected, abs=1e-6), None, 0.0]


def test_rows_without_golds_need_no_encoder():
    assert semantic_similarity.score_rows([AnsweredRow(text="x")]) == [None]
