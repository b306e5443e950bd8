"""A recipe -> Inspection: rows prepared as a run prepares them, then looked at. Only the tokenizer is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from whet.data.inspect import find_row, prompt_set, summarise_set, view_passes, view_row
from whet.data.overlap import report_overlap
from whet.data.pipeline import PreparedData, prepare
from whet.data.sampler import describe_packing, order_of
from whet.data.sources import BadRow, open_source
from whet.data.templates import prompts
from whet.errors import RecipeError
from whet.inspection import Inspection, OverlapReport
from whet.models.tokenizer import load_tokenizer
from whet.recipe.resolve import resolve
from whet.recipe.schema import Recipe, Source
from whet.types import Example, TokenizedSample, TokenizedSet

_MOST_TOKENS_OF_PASSES = 20_000


def build_inspection(
    recipe: Recipe, *, shown_set: str = "train", num_rows: int = 3, row: str | None = None, tell: Callable[[str], None]
) -> Inspection:
    """What a run of `recipe` would see; `row` (id, or number from 1) takes the place of the first `num_rows`.

    RecipeError where there is no such set or row; DataError and HubError as a run raises them. The passes are those
    of one process.
    """
    loaded = load_tokenizer(recipe.model)
    data = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd(), say=tell)
    own = {"train": data.train} | ({"validation": data.validation} if data.validation else {})
    prompted = _prompt_sets(data, taken=own)
    sets = own | prompted
    if shown_set not in sets:
        raise RecipeError(f"there is no set {shown_set!r}", where="--set", mend=f"the sets are {', '.join(sets)}")
    samples, end_ids = sets[shown_set].samples, data.template.end_ids
    order = order_of(recipe, data.train)
    plan = resolve(recipe, world_size=1, num_samples=order.num_units)
    step = order.step(plan, 0)
    return Inspection(
        name=recipe.name,
        model=recipe.model.id,
        sets=tuple(
            summarise_set(
                name, tokens, loaded.tokenizer, end_ids=end_ids, seed=recipe.seed,
                capacity=None if name in prompted else recipe.data.max_length,
            )
            for name, tokens in sets.items()
        ),
        overlaps=_find_overlaps(recipe, dict(zip(prompted, data.evaluate.values(), strict=True))),
        shown_set=shown_set,
        rows=tuple(
            view_row(samples, index, loaded.tokenizer, end_ids=end_ids)
            for index in _choose_rows(samples, row, num_rows, shown_set)
        ),
        passes=view_passes(
            data.train.samples, [each.tolist() for each in step.passes], loaded.tokenizer, end_ids=end_ids,
            most_tokens=_MOST_TOKENS_OF_PASSES,
        ),
        num_passes=sum(len(each) > 0 for each in step.passes),
        notes=(*data.notes, describe_packing(order, plan.micro_batch)),
    )  # fmt: skip


def _prompt_sets(data: PreparedData, taken: Mapping[str, TokenizedSet]) -> dict[str, TokenizedSet]:
    """What generation is prompted with in each evaluation set, by a name that no other set has."""
    ledgers = {ledger.name: ledger for ledger in data.ledgers}
    return {
        f"evaluate {name}" if name in taken else name: prompt_set(
            prompts(data.template, examples), [example.id for example in examples], ledgers[name]
        )
        for name, examples in data.evaluate.items()
    }


def _find_overlaps(recipe: Recipe, evaluate: Mapping[str, Sequence[Example]]) -> dict[str, OverlapReport]:
    """Held-out sets against the training rows, which are read once more, row by row."""

    def read(sources: Sequence[Source]) -> Iterator[Example]:
        for source in sources:
            for row in open_source(source, seed=recipe.seed, base_folder=Path.cwd()).read():
                if not isinstance(row, BadRow):
                    yield row

    validation = {"validation": tuple(read(recipe.data.validation))} if recipe.data.validation else {}
    return report_overlap(read(recipe.data.train), {**validation, **evaluate})


def _choose_rows(samples: Sequence[TokenizedSample], row: str | None, num_rows: int, name: str) -> list[int]:
    if row is None:
        return list(range(min(num_rows, len(samples))))
    index = find_row(samples, row)
    if index is None:
        raise RecipeError(
            f"{name} has no sample {row!r}",
            where="--row",
            mend=f"give a number from 1 to {len(samples):,}, or the id of a sample such as {samples[0].id}",
        )
    return [index]
