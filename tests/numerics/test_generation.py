"""Law: rows generated side by side get what each gets alone, and that is transformers' own greedy answer."""

import numpy as np
import pytest
import torch
from tiny import VOCAB, tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from whet.inference import engine
from whet.inference.engine import Decoding, generate
from whet.kernels import attention

LENGTHS = [17, 1, 30, 5, 12, 64, 2, 65, 40, 9, 3]
"""Around a block of the cache (64) too; more rows than slots in most tests."""
MAX_NEW = 40


def _prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCAB, n).tolist() for n in LENGTHS]


def _transformers(model, prompts, stop_ids, max_new_tokens):
    """Each prompt alone through transformers' generate: no padding, no cache of ours."""
    answers = []
    for prompt in prompts:
        ids_1T = torch.tensor([prompt])
        out = model.generate(
            ids_1T, attention_mask=torch.ones_like(ids_1T), do_sample=False, max_new_tokens=max_new_tokens,
            eos_token_id=sorted(stop_ids) or None, pad_token_id=0,
        )  # fmt: skip
        answers.append(tuple(out[0, len(prompt) :].tolist()))
    return answers


@pytest.fixture(scope="module")
def expected():
    """(stop ids, transformers' answers): tokens that some rows write early and others late or never."""
    model = tiny_llama(torch.float32, is_tied=False)
    free = _transformers(model, _prompts(), frozenset(), MAX_NEW)
    stop_ids = frozenset({free[0][3], free[2][0], free[5][20], free[8][11]})
    answers = _transformers(model, _prompts(), stop_ids, MAX_NEW)
    lengths = [len(a) for a in answers]
    assert min(lengths) == 1 and lengths.count(MAX_NEW) >= 2 and len(set(lengths)) >= 4
    return stop_ids, answers


def _model(dtype=torch.float32):
    model = tiny_llama(dtype, is_tied=False)
    attention.install(model)
    return model


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 8, 64])
def test_batched_greedy_is_what_transformers_writes_for_each_prompt_alone(expected, batch_rows):
    stop_ids, answers = expected
    decoding = Decoding(max_new_tokens=MAX_NEW, batch_rows=batch_rows)
    completions = generate(_model(), _prompts(), stop_ids=stop_ids, decoding=decoding)
    assert [c.ids for c in completions] == answers
    assert [c.has_stopped for c in completions] == [a[-1] in stop_ids for a in answers]


def test_the_order_of_the_prompts_changes_no_answer(expected):
    stop_ids, answers = expected
    decoding = Decoding(max_new_tokens=MAX_NEW, batch_rows=4)
    completions = generate(_model(), _prompts()[::-1], stop_ids=stop_ids, decoding=decoding)
    assert [c.ids for c in completions] == answers[::-1]


def test_prompts_read_over_several_passes_give_the_same_answers(expected, monkeypatch):
    monkeypatch.setattr(engine, "TOKENS_PER_READ", 20)
    stop_ids, answers = expected
    decoding = Decoding(max_new_tokens=MAX_NEW, batch_rows=16)
    assert [c.ids for c in generate(_model(), _prompts(), stop_ids=stop_ids, decoding=decoding)] == answers


def test_the_length_limit_ends_a_row_and_is_told():
    (completion,) = generate(
        _model(), [[5, 6, 7]], stop_ids=frozenset(), decoding=Decoding(max_new_tokens=3, batch_rows=1)
    )
    assert len(completion.ids) == 3 and not completion.has_stopped


def test_a_stop_token_at_the_length_limit_is_a_stop(expected):
    stop_ids, answers = expected
    row = next(i for i, a in enumerate(answers) if a[-1] in stop_ids and len(a) > 1)
    for limit, has_stopped in [(len(answers[row]), True), (len(answers[row]) - 1, False)]:
        (completion,) = generate(
            _model(), [_prompts()[row]], stop_ids=stop_ids, decoding=Decoding(max_new_tokens=limit, batch_rows=1)
        )
        assert (len(completion.ids), completion.has_stopped) == (limit, has_stopped)


def test_each_step_with_the_cache_gives_the_logits_of_a_whole_pass(monkeypatch):
    """Not only the arg max: every hidden state of every row, rows coming and going (float64)."""
    prompts = _prompts()
    seen = []
    take = engine._Decoder._take

    def record(self, rows, hidden_BE):
        seen.extend(((row.index, tuple(row.new_ids)), hidden) for row, hidden in zip(rows, hidden_BE, strict=True))
        take(self, rows, hidden_BE)

    monkeypatch.setattr(engine._Decoder, "_take", record)
    model, untouched = _model(torch.float64), tiny_llama(torch.float64, is_tied=False)
    generate(model, prompts, stop_ids=frozenset({7, 9, 31}), decoding=Decoding(max_new_tokens=6, batch_rows=3))
    assert len(seen) > 40
    with torch.no_grad():
        for (index, new_ids), hidden_E in seen:
            whole = untouched.model(torch.tensor([[*prompts[index], *new_ids]]), use_cache=False).last_hidden_state
            torch.testing.assert_close(hidden_E, whole[0, -1], rtol=1e-10, atol=1e-10)


def test_a_real_model_writes_the_story_that_transformers_writes(test_data):
    folder = test_data / "stories260k" / "hf"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    starts = ["Once upon a time", "The cat", "One day, a girl named Lily went to the park with her mom. She saw a", "T"]
    prompts = [tokenizer(text)["input_ids"] for text in starts]
    stop_ids = frozenset({tokenizer.eos_token_id, *tokenizer(".", add_special_tokens=False)["input_ids"][-1:]})
    answers = _transformers(model, prompts, stop_ids, 60)
    attention.install(model)
    for batch_rows in (1, 3):
        completions = generate(
            model, prompts, stop_ids=stop_ids, decoding=Decoding(max_new_tokens=60, batch_rows=batch_rows)
        )
        assert [c.ids for c in completions] == answers
    assert len({len(a) for a in answers}) > 1
