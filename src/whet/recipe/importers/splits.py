"""Held-out rows out of one split: training rows are cut where the validation rows lie inside them."""

from __future__ import annotations

from whet.recipe.schema import Source
from whet.recipe.splits import Stretch, parse_split, share_rows


def without(source: str, train: str, held_out: str) -> str | None:
    """The split `train` without the rows of `held_out`; None when what is left is not one stretch.

    `train` itself when they share no row: `without("d", "train", "train[:5000]")` is `train[5000:]`.
    """
    if not share_rows(Source(source=source, split=train), Source(source=source, split=held_out)):
        return train
    whole, part = parse_split(train), parse_split(held_out)
    if whole is None or part is None or (part.is_percent != whole.is_percent and train != whole.name):
        return None
    if part.start <= whole.start and part.stop is not None and (whole.stop is None or part.stop < whole.stop):
        return _written(Stretch(whole.name, part.stop, whole.stop, part.is_percent))
    if part.start > whole.start and (part.stop is None or (whole.stop is not None and part.stop >= whole.stop)):
        return _written(Stretch(whole.name, whole.start, part.start, part.is_percent))
    return None


def _written(stretch: Stretch) -> str:
    sign = "%" if stretch.is_percent else ""
    start = f"{stretch.start}{sign}" if stretch.start else ""
    stop = "" if stretch.stop is None else f"{stretch.stop}{sign}"
    return f"{stretch.name}[{start}:{stop}]"
