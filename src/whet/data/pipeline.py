"""From a recipe to tokens: load the rows, refuse overlap, tokenize. Packing into batches is the loop's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.data.overlap import refuse_overlap
from whet.data.rows import number_ids
from whet.data.sources import load_examples
from whet.data.tokenize import tokenize_examples
from whet.recipe.schema import Recipe, Source
from whet.types import Example, TokenizedSet


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSets:
    """All rows of a recipe. Invariant: no row of `validation` or `evaluate` is a row of `train`."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    evaluate: dict[str, tuple[Example, ...]]
    """by the name of the evaluation set"""
    notes: tuple[str, ...]
    """sentences to say aloud"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """What a run needs of its data. Invariant: no row of `validation` or `evaluate` is a row of `train`."""

    train: TokenizedSet
    validation: TokenizedSet | None
    evaluate: dict[str, tuple[Example, ...]]
    """by the name of the evaluation set"""
    notes: tuple[str, ...]
    """sentences to say aloud: formats found, rows left out or cut"""


def prepare(recipe: Recipe, tokenizer: Any, *, end_ids: Sequence[int], base_folder: Path) -> PreparedData:
    """Rows of the recipe as tokens, after the check that nothing evaluated is trained on.

    `end_ids` are the tokens that end a turn; relative files start at `base_folder`. Raises DataError, HubError or
    RecipeError before any training.
    """
    sets = load_sets(recipe, base_folder=base_folder)
    notes = list(sets.notes)

    def tokenize(examples: tuple[Example, ...], name: str) -> TokenizedSet:
        tokenized = tokenize_examples(
            examples, tokenizer, template=recipe.data.template, max_length=recipe.data.max_length,
            over_length=recipe.data.over_length, end_ids=end_ids,
        )  # fmt: skip
        notes.append(describe(tokenized, name))
        return tokenized

    return PreparedData(
        train=tokenize(sets.train, "train"),
        validation=tokenize(sets.validation, "validation") if sets.validation else None,
        evaluate=sets.evaluate,
        notes=tuple(notes),
    )


def load_sets(recipe: Recipe, *, base_folder: Path) -> LoadedSets:
    """All rows of the recipe without a tokenizer: what evaluation alone needs. Raises DataError on overlap."""
    notes: list[str] = []

    def load(sources: Sequence[Source]) -> tuple[Example, ...]:
        examples: list[Example] = []
        for source in sources:
            loaded = load_examples(source, seed=recipe.seed, base_folder=base_folder)
            notes.append(loaded.describe(f"{source.source} [{source.split}]"))
            examples += loaded.examples
        return number_ids(examples)

    train, validation = load(recipe.data.train), load(recipe.data.validation)
    evaluate = {each.name: load([each.source]) for each in recipe.evaluate}
    for name, examples in {"validation": validation, **evaluate}.items():
        refuse_overlap(train, examples, eval_name=name)
    return LoadedSets(train=train, validation=validation, evaluate=evaluate, notes=tuple(notes))


def describe(tokenized: TokenizedSet, name: str) -> str:
    """One sentence: samples, tokens, taught tokens, and what was left out or cut."""
    num_tokens = sum(sample.num_tokens for sample in tokenized.samples)
    num_taught = sum(sample.num_taught for sample in tokenized.samples)
    text = f"{name}: {len(tokenized.samples)} samples, {num_tokens} tokens, {num_taught} of them taught"
    if tokenized.dropped:
        first = tokenized.dropped[0]
        text += f"; {len(tokenized.dropped)} too long and left out, e.g. {first.origin} ({first.reason})"
    if tokenized.truncated:
        first = tokenized.truncated[0]
        text += f"; {len(tokenized.truncated)} prompts cut, e.g. {first.origin} ({first.reason})"
    return text
