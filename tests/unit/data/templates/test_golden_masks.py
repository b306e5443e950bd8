"""tests/golden/masks.json still holds (tests/support/golden_masks.py writes it), and says what must be so."""

import json

import golden_masks
import llama_models_reference as reference
import numpy as np
import pytest

GOLDEN = json.loads(golden_masks.GOLDEN.read_text(encoding="utf-8"))
TINY = GOLDEN["tiny tokenizers"]
REAL = GOLDEN["real Llama-3 tokenizer"]
ENTRIES = [
    pytest.param(name, shape, entry, id=f"{name}-{shape}")
    for group in (TINY, REAL)
    for name, shapes in group.items()
    for shape, entry in shapes.items()
    if "refused" not in entry
]


@pytest.mark.parametrize("name", golden_masks.TINY)
def test_every_shape_of_row_is_masked_as_before(name):
    assert golden_masks.snapshot(golden_masks.tiny_template(name), has_text=True) == TINY[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", golden_masks.REAL)
def test_every_shape_of_row_is_masked_as_before_by_the_real_llama_3_tokenizer(name):
    llama3 = reference.build_llama3_tokenizer(reference.fetch_or_skip())
    assert golden_masks.snapshot(golden_masks.real_template(name, llama3), has_text=False) == REAL[name]


@pytest.mark.parametrize(("name", "shape", "entry"), ENTRIES)
def test_the_snapshot_teaches_the_answers_and_their_ends_and_has_one_beginning(name, shape, entry):
    answers = [turn.content for turn in golden_masks.read_row(shape).messages if turn.is_taught]
    end = entry["last_taught"]
    assert end in {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>"}
    pieces = entry["taught"].removesuffix(end).split(end)
    assert len(pieces) == len(answers)
    for piece, answer in zip(pieces, answers, strict=True):
        assert piece.strip() == answer or (not answer and '"name": "sky"' in piece)
    if "ChatML" in name or name in ("smollm2", "plain", "plain metamath", "plain gsm8k"):
        assert entry["num_bos"] == entry["whole"].count("<|im_start|>")  # this tokenizer's BOS opens ChatML's turns
    else:
        assert entry["num_bos"] == 1


def test_only_what_cannot_be_rendered_is_refused():
    refused = {(name, shape) for name, shapes in TINY.items() for shape in shapes if "refused" in shapes[shape]}
    chat = {name for name, (_, _, settings) in golden_masks.TINY.items() if settings["kind"] == "chat"}
    plain = set(golden_masks.TINY) - chat
    with_prompt = {name for name in plain if "prompt" in golden_masks.TINY[name][2]}
    assert refused == (
        {(name, "text") for name in chat | with_prompt}
        | {(name, "tools") for name in golden_masks.TINY if name != "llama-3.1"}
        | {(name, "messages") for name in plain}
    )


def test_untaught_turns_stay_untaught_in_the_ids(chatml):
    ids, taught = golden_masks.sample(golden_masks.tiny_template("own ChatML"), golden_masks.read_row("messages"))
    (first, last) = np.flatnonzero(taught)[[0, -1]]
    assert chatml.decode(ids[:first].tolist()).count("Hi.") == 1
    assert chatml.decode(ids[first : last + 1].tolist()) == "4<|im_end|>"
