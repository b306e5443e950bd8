"""Law: rows generated side by side get what each gets alone, and that is transformers' own greedy answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny import VOCAB, tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from whet.errors import DataError
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


@pytest.mark.parametrize("step", ["short", "of the modules"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_each_step_with_the_cache_gives_the_logits_of_a_whole_pass(monkeypatch, step, dtype, tolerance):
    """Not only the arg max: every hidden state of every row, rows coming and going."""
    prompts = _prompts()
    seen = []
    take = engine._Decoder._take

    def record(self, rows, hidden_BE):
        assert (self._fast_step is not None) == (step == "short")
        seen.extend(((row.index, tuple(row.new_ids)), hidden) for row, hidden in zip(rows, hidden_BE, strict=True))
        take(self, rows, hidden_BE)

    monkeypatch.setattr(engine._Decoder, "_take", record)
    if step != "short":
        monkeypatch.setattr(engine, "build_decode_step", lambda *_args, **_settings: None)
    model, untouched = _model(dtype), tiny_llama(dtype, is_tied=False)
    generate(model, prompts, stop_ids=frozenset({7, 9, 31}), decoding=Decoding(max_new_tokens=8, batch_rows=3))
    assert len(seen) > 40
    with torch.no_grad():
        for (index, new_ids), hidden_E in seen:
            whole = untouched.model(torch.tensor([[*prompts[index], *new_ids]]), use_cache=False).last_hidden_state
            torch.testing.assert_close(hidden_E, whole[0, -1], rtol=tolerance, atol=tolerance)


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


SAMPLED = {"temperature": 0.9, "top_k": 200, "top_p": 0.98, "seed": 5}


def _letters(ids):
    """A decoder that needs no tokenizer: two letters a token, so that stop strings can lie across tokens."""
    return "".join(chr(97 + token // 26 % 26) + chr(97 + token % 26) for token in ids)


@pytest.mark.parametrize("batch_rows", [2, 5, 64])
def test_a_sampled_row_draws_the_same_whatever_is_beside_it(expected, batch_rows):
    """float64, so that rounding decides no draw."""
    stop_ids, _ = expected
    model, prompts = _model(torch.float64), _prompts()
    keys = [f"example-{i}" for i in range(len(prompts))]
    alone = [
        generate(
            model, [prompt], stop_ids=stop_ids, keys=[key],
            decoding=Decoding(max_new_tokens=20, batch_rows=1, **SAMPLED),
        )[0]
        for prompt, key in zip(prompts, keys, strict=True)
    ]  # fmt: skip
    decoding = Decoding(max_new_tokens=20, batch_rows=batch_rows, **SAMPLED)
    assert generate(model, prompts, stop_ids=stop_ids, decoding=decoding, keys=keys) == alone
    turned = generate(model, prompts[::-1], stop_ids=stop_ids, decoding=decoding, keys=keys[::-1])
    assert turned[::-1] == alone
    other = generate(model, prompts, stop_ids=stop_ids, decoding=replace(decoding, seed=6), keys=keys)
    assert other != alone


def test_rows_with_the_same_prompt_draw_for_themselves():
    decoding = Decoding(max_new_tokens=12, batch_rows=4, **SAMPLED)
    completions = generate(_model(), [[5, 6, 7]] * 4, stop_ids=frozenset(), decoding=decoding)
    assert len({c.ids for c in completions}) == 4


def test_temperature_zero_is_the_greedy_answer_whatever_the_seed(expected):
    stop_ids, answers = expected
    for seed in (0, 1):
        decoding = Decoding(max_new_tokens=MAX_NEW, batch_rows=4, temperature=0, seed=seed, top_p=0.5)
        completions = generate(_model(), _prompts(), stop_ids=stop_ids, decoding=decoding)
        assert [c.ids for c in completions] == answers


def test_first_tokens_come_as_often_as_the_softmax_says():
    """2,000 rows of one prompt; tokens that are expected fewer than 5 times are counted together."""
    prompt, num_rows, untouched = [5, 6, 7], 2000, tiny_llama(torch.float32, is_tied=False)
    with torch.no_grad():
        shares = (untouched(torch.tensor([prompt]), use_cache=False).logits[0, -1].double() / 0.8).softmax(-1).numpy()
    decoding = Decoding(max_new_tokens=1, batch_rows=500, temperature=0.8)
    drawn = generate(_model(), [prompt] * num_rows, stop_ids=frozenset(), decoding=decoding)
    counts = np.bincount([c.ids[0] for c in drawn], minlength=VOCAB)
    is_common = shares * num_rows >= 5
    assert is_common.sum() > 10
    found = [*counts[is_common], counts[~is_common].sum()]
    meant = np.array([*shares[is_common], shares[~is_common].sum()]) * num_rows
    assert chisquare(found, meant).pvalue > 0.001


@pytest.mark.parametrize("batch_rows", [1, 3, 64])
def test_a_stop_string_over_several_tokens_ends_the_row_and_is_cut_off(expected, batch_rows):
    stop_ids, answers = expected
    row = next(i for i, a in enumerate(answers) if len(a) > 12)
    text = _letters(answers[row])
    # from the middle of one token to the middle of the one after the next
    stop = text[9:13]
    cut = text.index(stop)
    num_tokens = (cut + len(stop) + 1) // 2
    completions = generate(
        _model(), _prompts(), stop_ids=stop_ids, decode=_letters,
        decoding=Decoding(max_new_tokens=MAX_NEW, batch_rows=batch_rows, stop_strings=(stop, "A")),
    )  # fmt: skip
    assert completions[row].text == text[:cut]
    assert completions[row].ended == "stop_string" and completions[row].has_stopped
    assert completions[row].ids == answers[row][:num_tokens]
    for completion, answer in zip(completions, answers, strict=True):
        if stop not in _letters(answer):
            whole = answer[:-1] if answer[-1] in stop_ids else answer
            assert (completion.ids, completion.text) == (answer, _letters(whole))


def test_a_stop_string_at_the_length_limit_is_a_stop(expected):
    _, answers = expected
    row = next(i for i, a in enumerate(answers) if len(a) > 12)
    decoding = Decoding(max_new_tokens=6, batch_rows=1, stop_strings=(_letters(answers[row])[9:12],))
    (completion,) = generate(_model(), [_prompts()[row]], stop_ids=frozenset(), decoding=decoding, decode=_letters)
    assert (completion.ended, completion.text) == ("stop_string", _letters(answers[row])[:9])


def test_a_long_prompt_leaves_its_row_less_room(expected):
    _, answers = expected
    decoding = Decoding(max_new_tokens=MAX_NEW, batch_rows=4, max_total_tokens=70)
    completions = generate(_model(), _prompts(), stop_ids=expected[0], decoding=decoding)
    for completion, answer, length in zip(completions, answers, LENGTHS, strict=True):
        assert completion.ids == answer[: 70 - length]
        assert completion.has_stopped == (completion.ids[-1] in expected[0])
    assert any(c.ended == "length" and len(c.ids) < MAX_NEW for c in completions)


@pytest.mark.parametrize(("prompt", "said"), [([], "no tokens"), ([5] * 70, "has 70 tokens")])
def test_a_prompt_without_room_for_an_answer_is_refused(prompt, said):
    decoding = Decoding(max_new_tokens=5, batch_rows=4, max_total_tokens=70)
    with pytest.raises(DataError, match=said) as caught:
        generate(_model(), [[5], prompt], stop_ids=frozenset(), decoding=decoding, keys=["a", "b"])
    assert caught.value.where == "row b"
