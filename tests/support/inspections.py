"""Inspections with every part filled in, for the terminal view and the page; and a small recipe to inspect."""

import json
from pathlib import Path

from tiny_tokenizers import build_chatml

from whet.inspection import (
    AnswerLengths,
    Histogram,
    Inspection,
    NgramOverlap,
    OverlapPair,
    OverlapReport,
    PackingSummary,
    PassView,
    SampleView,
    SetSummary,
    SpecialToken,
    TokenView,
)
from whet.types import Ledger, LedgerRow


def token(position=0, text="x", **changed) -> TokenView:
    plain = {"id": 7, "is_taught": False, "is_special": False, "role": "user"}
    return TokenView(position=position, text=text, **(plain | changed))


def sample(*tokens, number=1, name="row-0") -> SampleView:
    return SampleView(number=number, id=name, tokens=tokens)


def inspection(text="x", **changed) -> Inspection:
    """Everything filled in, `text` in every place that data can reach."""
    rows = (
        LedgerRow(origin=text, status="too long", reason=text),
        LedgerRow(origin=text, status="duplicate", reason=text),
    )
    summary = SetSummary(
        name="train", num_samples=4, num_tokens=200, num_taught=50, shortest=10, median=40.5, longest=99,
        histogram=Histogram(edges=(0, 50, 100), counts=(1, 3)),
        answers=AnswerLengths(num_answers=4, median_words=150, mean_words=199.25, share_concise=0.25,
                              share_medium=0.5, share_long=0.25),
        special_tokens=(SpecialToken(id=2, text=text, meaning="end of turn", count=8, num_taught=4),),
        packing=PackingSummary(padded_batch_size=8, padding_share=0.375, capacity=128, num_packs=2,
                               pack_efficiency=0.78125),
        ledger=Ledger(name="train", num_rows=6, num_kept=4, rows=rows, drops_duplicates=True),
    )  # fmt: skip
    pair = OverlapPair(eval_origin=text, train_origin=text, kind="8-gram", shared=text)
    report = OverlapReport(num_rows=1319, num_train_rows=7473, num_exact=0, num_same_parameters=None, pairs=(pair,),
                           ngrams=(NgramOverlap(n=8, num_rows=80, num_boilerplate=5),
                                   NgramOverlap(n=13, num_rows=3, num_boilerplate=1)))  # fmt: skip
    view = sample(token(text=text), name=text)
    filled = {
        "name": text, "model": text, "sets": (summary,), "overlaps": {text: report}, "shown_set": text,
        "rows": (view,), "num_passes": 1, "notes": (text,),
        "passes": (PassView(number=1, documents=(view,), num_documents=1, num_tokens=1),),
    }  # fmt: skip
    return Inspection(**(filled | changed))


RECIPE = """\
name: tiny
output: {folder}/run
model: {{id: {folder}/model}}
data:
  train: [{{source: {folder}/train.jsonl}}]
  validation: [{{source: {folder}/validation.jsonl}}]
  max_length: 128
  max_dropped: 50%
batch: {{global_size: 4, micro_size: 2}}
evaluate:
  - {{name: held, source: {{source: {folder}/held.jsonl}}}}
  - {{name: train, source: {{source: {folder}/other.jsonl}}}}
"""
SHARED = "in the shop there are 7 red and 5 blue balls"


def _write(path: Path, questions: list[str]) -> None:
    rows = [{"question": question, "answer": f"The answer is {i}."} for i, question in enumerate(questions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_recipe(folder: Path) -> Path:
    """Nine training rows (one too long, one sharing words with a held-out row) and a model folder without weights."""
    build_chatml().save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2}))
    questions = [f"How many clips did friend {i} sell?" for i in range(7)]
    _write(folder / "train.jsonl", [*questions, f"Say, {SHARED}. How many?", "word " * 300])
    _write(folder / "validation.jsonl", ["What is sold in May?"])
    _write(folder / "held.jsonl", [f"Look: {SHARED}; count them", "What is half of 48?"])
    _write(folder / "other.jsonl", ["What is 24 + 24?"])
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(folder=folder), encoding="utf-8")
    return path
