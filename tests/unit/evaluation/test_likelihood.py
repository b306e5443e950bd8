"""A gold answer's likelihood is what an untouched transformers model says of it, alone, token by token."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_tokenizers
import torch
from tiny import IDENTITY, tiny_llama
from tiny_data import make_example
from torch import nn

from whet.data import templates
from whet.evaluation.likelihood import gold_likelihoods, gold_samples
from whet.kernels import attention
from whet.models.load import LoadedModel
from whet.types import Example, Message

pytestmark = pytest.mark.slow

EXAMPLES = [
    make_example(f"How many are {n} and {n + 1}?{' well' * (5 * n % 7)}", f"{2 * n + 1} clips in May", name=str(n))
    for n in range(9)
]


def load(dtype: torch.dtype) -> LoadedModel:
    model = tiny_llama(dtype)
    attention.install(model)
    return LoadedModel(
        model=model, tokenizer=tiny_tokenizers.build_chatml(), identity=IDENTITY, folder=Path("tiny"),
        compute_dtype=dtype, stop_ids=(0, 2),
    )  # fmt: skip


def template_of(loaded: LoadedModel, kind: str = "chat") -> templates.Template:
    return templates.build_template(loaded.tokenizer, kind, loaded.stop_ids)


def one_by_one(example: Example, template: templates.Template, dtype: torch.dtype) -> tuple[float, int, int]:
    """Nats, tokens and arg max hits of the answer, by full logits of an untouched model, the answer found by hand."""
    [prompt] = templates.prompts(template, [example])
    tail = template.tokenizer(example.messages[-1].content, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([*prompt, *tail, template.tokenizer.eos_token_id])
    with torch.no_grad():
        logits_TV = tiny_llama(dtype)(ids[None], use_cache=False).logits[0]
    before = slice(len(prompt) - 1, len(ids) - 1)
    answer = ids[len(prompt) :]
    nll = nn.functional.cross_entropy(logits_TV[before], answer, reduction="sum")
    return float(nll), len(answer), int((logits_TV[before].argmax(-1) == answer).sum())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_every_answer_is_as_likely_as_to_transformers_one_by_one(kind, dtype, tolerance):
    loaded = load(dtype)
    template = template_of(loaded, kind)
    # the plain template puts a line break before the answer
    examples = [
        replace(e, messages=(e.messages[0], replace(e.messages[1], content="\n" + e.messages[1].content)))
        for e in EXAMPLES
    ] if kind == "plain" else EXAMPLES  # fmt: skip
    for example, found in zip(examples, gold_likelihoods(loaded, template, examples), strict=True):
        nll, num_tokens, num_correct = one_by_one(example, template, dtype)
        assert found is not None
        assert found.nll == pytest.approx(nll, rel=tolerance)
        assert (found.num_tokens, found.num_correct) == (num_tokens, num_correct)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    loaded = load(torch.float32)
    template = template_of(loaded)
    together = gold_likelihoods(loaded, template, EXAMPLES)
    backwards = gold_likelihoods(loaded, template, EXAMPLES[::-1], batch_tokens=150)[::-1]
    alone = [gold_likelihoods(loaded, template, [example], batch_tokens=1)[0] for example in EXAMPLES]
    for row in zip(together, backwards, alone, strict=True):
        assert len({(r.num_tokens, r.num_correct) for r in row}) == 1
        assert [r.nll for r in row] == pytest.approx([row[0].nll] * 3, abs=1e-5)


def test_only_the_last_answer_of_a_conversation_counts():
    loaded = load(torch.float64)
    template = template_of(loaded)
    [short] = gold_samples(template, [EXAMPLES[0]])
    turns = (Message(role="user", content="May"), Message(role="assistant", content="June", is_taught=True))
    longer = replace(EXAMPLES[0], messages=(*turns, *EXAMPLES[0].messages))
    [sample] = gold_samples(template, [longer])
    assert short is not None and sample is not None
    assert sample.ids[sample.taught].tolist() == short.ids[short.taught].tolist()
    [prompt] = templates.prompts(template, [longer])
    assert prompt == sample.ids[: len(prompt)].tolist() and sample.num_tokens > short.num_tokens
    assert not sample.taught[: len(prompt)].any()


def test_an_answer_that_training_would_not_teach_counts_here():
    loaded = load(torch.float64)
    untaught = replace(EXAMPLES[0], messages=tuple(replace(m, is_taught=False) for m in EXAMPLES[0].messages))
    template = template_of(loaded)
    assert gold_likelihoods(loaded, template, [untaught]) == gold_likelihoods(loaded, template, EXAMPLES[:1])


def test_rows_without_a_likelihood_have_none_and_the_others_keep_their_places():
    loaded = load(torch.float32)
    template = template_of(loaded)
    no_answer = replace(EXAMPLES[0], messages=EXAMPLES[0].messages[:1])
    empty = replace(EXAMPLES[0], messages=(EXAMPLES[0].messages[0], Message(role="assistant", content="")))
    text_alone = replace(EXAMPLES[0], messages=EXAMPLES[0].messages[1:])
    too_long = make_example("May " * 300)
    rows = [no_answer, EXAMPLES[1], empty, text_alone, too_long, EXAMPLES[2]]
    told: list[int] = []
    found = gold_likelihoods(loaded, template, rows, batch_tokens=1, progress=told.append)
    assert [f is None for f in found] == [True, False, True, True, True, False]
    whole = gold_likelihoods(loaded, template, EXAMPLES[1:3])
    assert [found[1].num_tokens, found[5].num_tokens] == [w.num_tokens for w in whole]
    assert told == [5, 6]
    assert gold_likelihoods(loaded, template, []) == []


def test_dropout_is_off():
    loaded = load(torch.float32)
    loaded.model.train()
    gold_likelihoods(loaded, template_of(loaded), EXAMPLES[:1])
    assert not loaded.model.training
