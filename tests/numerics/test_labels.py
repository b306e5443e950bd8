"""Law: labels are shifted exactly once, and what is taught is the answer with the token that ends it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import VOCAB, loss_model_of, make_samples, tiny_llama
from tiny_data import make_example, tokenize

from whet.data.packing import pack
from whet.kernels import attention
from whet.types import TokenizedSample


def _bigram_model(next_token):
    """A Llama whose attention and feed-forward parts are silent and whose head maps token t to `next_token[t]`."""
    model = tiny_llama(is_tied=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        # 64 dimensions hold 500 nearly orthogonal directions; the head reads them off with a large scale
        codes_VE = torch.nn.functional.normalize(torch.randn(VOCAB, 64, generator=generator, dtype=torch.float64))
        model.model.embed_tokens.weight.copy_(codes_VE)
        model.lm_head.weight.zero_()
        model.lm_head.weight[next_token] = 10 * codes_VE
    attention.install(model)
    return model


def test_a_model_that_knows_the_next_token_has_no_loss():
    next_token = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(1))
    loss_model = loss_model_of(_bigram_model(next_token))

    def walk(start, length):
        ids = [start]
        while len(ids) < length:
            ids.append(int(next_token[ids[-1]]))
        return TokenizedSample(id=str(start), ids=np.array(ids, dtype=np.int32), taught=np.arange(length) >= 3)

    batch = pack([walk(5, 12), walk(77, 4), walk(300, 30)])
    nll, num_taught, num_correct = loss_model.evaluate(batch)
    assert nll / num_taught < 1e-3
    assert num_correct == num_taught == 9 + 1 + 27


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_same_model_fails_on_labels_shifted_otherwise(shift):
    """The test above is not empty: a walk is no fixed point of the map."""
    next_token = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(1))
    ids = [5]
    while len(ids) < 30:
        ids.append(int(next_token[ids[-1]]))
    sample = TokenizedSample(id="5", ids=np.array(ids, dtype=np.int32), taught=np.ones(30, dtype=bool))
    batch = pack([sample])
    labels_T = batch.labels_T.roll(shift)
    shifted = replace(batch, labels_T=labels_T, taught_N=(labels_T != -100).nonzero()[:, 0])
    nll, num_taught, _ = loss_model_of(_bigram_model(next_token)).evaluate(shifted)
    assert nll / num_taught > 5


def test_the_loss_of_one_row_is_transformers_own():
    (sample,) = make_samples([23])
    ids_1T = torch.from_numpy(sample.ids.astype(np.int64))[None]
    labels_1T = torch.where(torch.from_numpy(sample.taught)[None], ids_1T, -100)
    model = tiny_llama(torch.float32)
    with torch.no_grad():
        expected = model(ids_1T, labels=labels_1T, use_cache=False).loss
    attention.install(model)
    nll, num_taught, _ = loss_model_of(model).evaluate(pack([sample]))
    assert nll / num_taught == pytest.approx(expected.item(), abs=1e-6)


QUESTIONS = [("How many clips?", "48"), ("Explain.", "half of 48 is 24,\nand 48 + 24 = 72."), ("2+2", " 4 ")]


def _tokenize(tokenizer):
    examples = [make_example(question, answer, str(i)) for i, (question, answer) in enumerate(QUESTIONS)]
    return tokenize(examples, tokenizer, max_length=256)[0]


def test_the_end_of_turn_is_taught_although_it_is_the_padding_token(chatml):
    assert chatml.pad_token_id == chatml.eos_token_id
    samples = _tokenize(chatml)
    batch = pack(samples)
    # the independent pass: the answers alone through the tokenizer, each with the end of its turn
    answers = [[*chatml(answer, add_special_tokens=False)["input_ids"], chatml.eos_token_id] for _, answer in QUESTIONS]
    assert batch.labels_T[batch.labels_T != -100].tolist() == [token for answer in answers for token in answer]
    assert sum(s.num_taught for s in samples) == batch.num_taught == sum(len(answer) for answer in answers)


def test_one_end_of_turn_per_answer_is_taught_where_padding_is_another_token(llama3):
    batch = pack(_tokenize(llama3))
    assert int((batch.labels_T == llama3.eos_token_id).sum()) == len(QUESTIONS)
    assert int((batch.labels_T == llama3.bos_token_id).sum()) == 0
