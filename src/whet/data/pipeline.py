"""From a recipe to tokens: rows -> examples -> tokens in the cache -> sets, with every row accounted for.

Packing into batches is the loop's business (data/sampler.py, data/packing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.data import account, row_keys
from whet.data.rows import number_ids
from whet.data.source_tokens import refuse_faults, tokens_of
from whet.data.sources import BadRow, open_source
from whet.data.templates import Template, end_ids_for, template_for
from whet.data.token_cache import CachedTokens
from whet.data.token_set import REPEATED, join_sources
from whet.recipe.schema import Evaluate, Recipe, Source
from whet.types import DroppedRow, Example, Ledger, LedgerRow, TokenizedSet

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """What a run needs of its data. Invariant: no row of `validation` or `evaluate` is a row of `train`."""

    train: TokenizedSet
    validation: TokenizedSet | None
    evaluate: dict[str, tuple[Example, ...]]
    """by the name of the evaluation set"""
    template: Template
    """what all of them are rendered with"""
    ledgers: tuple[Ledger, ...]
    """the account of training, validation and evaluation rows"""
    quarantine: tuple[dict[str, str], ...]
    """bad rows that were left out: origin, reason, row"""
    notes: tuple[str, ...]
    """sentences to say aloud: formats found, rows left out or cut"""


# docs: start-prepare
def prepare(
    recipe: Recipe, tokenizer: Any, *, end_ids: Sequence[int], base_folder: Path, say: Say = lambda _: None
) -> PreparedData:
    """Rows of the recipe as tokens, after the check that nothing evaluated is trained on.

    `end_ids` are the tokens that the model ends a turn with (the recipe's template may add its own); relative files
    start at `base_folder`; `say` hears when something is tokenized that the cache does not have. Raises DataError,
    HubError or RecipeError before any training.
    """
    template = template_for(tokenizer, recipe.data, end_ids_for(tokenizer, recipe.data, end_ids))
    preparation = _Preparation(recipe, template, base_folder, say)
    train = preparation.tokenize("train", recipe.data.train)
    validation = preparation.tokenize("validation", recipe.data.validation) if recipe.data.validation else None
    return PreparedData(
        train=train,
        validation=validation,
        evaluate={entry.name: preparation.evaluation_rows(entry) for entry in recipe.evaluate},
        template=template,
        ledgers=tuple(preparation.ledgers),
        quarantine=tuple(preparation.quarantine),
        notes=tuple(preparation.notes),
    )


# docs: end-prepare


class _Preparation:
    """The sets of one recipe on their way, training rows first: the others must share none with them."""

    def __init__(self, recipe: Recipe, template: Template, base_folder: Path, say: Say) -> None:
        self._recipe, self._template, self._base_folder, self._say = recipe, template, base_folder, say
        self._train: list[CachedTokens] = []
        self.ledgers: list[Ledger] = []
        self.quarantine: list[dict[str, str]] = []
        self.notes: list[str] = []

    def tokenize(self, name: str, sources: Sequence[Source]) -> TokenizedSet:
        """The set `name` as tokens."""
        data = self._recipe.data
        cached = []
        for source in sources:
            opened = open_source(source, seed=self._recipe.seed, base_folder=self._base_folder)
            cached.append(tokens_of(opened, self._template, data, say=self._say))
            self.notes.append(account.describe_source(opened, cached[-1]))
            self.quarantine += cached[-1].quarantine()
        if name == "train":
            self._train = cached
            tokens = join_sources(name, cached, drops_duplicates=data.duplicates == "drop")
        else:
            tokens = join_sources(name, cached, shared=self._shared_samples(name, cached))
        self.notes.append(account.describe_set(tokens))
        self._keep(tokens.ledger)
        return tokens

    def _shared_samples(self, name: str, cached: Sequence[CachedTokens]) -> dict[int, str]:
        """Held-out samples that are training rows too: position in the joined sources -> which."""
        keys = {key: [int(k) for source in cached for k in source.samples[key]] for key in ("question", "parameters")}
        shared = account.find_shared_rows(self._train, keys["question"], keys["parameters"])
        if shared and self._recipe.data.shared_rows == "error":
            joined = enumerate(origin for source in cached for origin in source.all_origins())
            origins = {position: origin for position, origin in joined if position in shared}
            account.refuse_shared_rows(name, shared, origins, len(keys["question"]))
        return {position: f"also {row}" for position, row in shared.items()}

    def evaluation_rows(self, entry: Evaluate) -> tuple[Example, ...]:
        """The rows that base and tuned will answer."""
        source = open_source(entry.source, seed=self._recipe.seed, base_folder=self._base_folder)
        found: list[Example] = []
        bad: list[BadRow] = []
        for row in source.read():
            (bad if isinstance(row, BadRow) else found).append(row)  # type: ignore[arg-type]
        faults = [DroppedRow(origin=row.origin, reason=row.reason) for row in bad if row.kind == "bad"]
        if self._recipe.data.bad_rows == "error":
            refuse_faults(faults, len(found) + len(bad), source.name)
        num_rows = len(found) + len(bad)
        rows = [LedgerRow(origin=row.origin, status=row.kind, reason=row.reason) for row in bad]
        numbered = number_ids(found)
        shared = self._shared_examples(entry.name, numbered)
        for position, example in enumerate(numbered):
            if position in shared:
                rows.append(LedgerRow(origin=example.origin, status="shared", reason=shared[position]))
            elif not example.id.endswith("-0"):
                rows.append(LedgerRow(origin=example.origin, status="duplicate", reason=REPEATED))
        ledger = Ledger(name=entry.name, num_rows=num_rows, num_kept=num_rows - len(rows), rows=tuple(rows))
        self.notes.append(f"{entry.name}: {account.describe_ledger(ledger)}")
        self.quarantine += [{"origin": row.origin, "reason": row.reason, "row": row.content}
                            for row in bad if row.kind == "bad"]  # fmt: skip
        self._keep(ledger)
        return tuple(example for position, example in enumerate(numbered) if position not in shared)

    def _shared_examples(self, name: str, examples: Sequence[Example]) -> dict[int, str]:
        questions = [row_keys.question_key(example) for example in examples]
        shared = account.find_shared_rows(self._train, questions, [row_keys.parameters_key(e) for e in examples])
        if self._recipe.data.shared_rows == "error":
            account.refuse_shared_rows(name, shared, {i: examples[i].origin for i in shared}, len(examples))
        return {position: f"also {row}" for position, row in shared.items()}

    def _keep(self, ledger: Ledger) -> None:
        self.ledgers.append(ledger)
        account.refuse_lost_rows(ledger, self._recipe.data)
