"""Held-out rows out of the training rows: which part is which, so that no row is in both."""

from __future__ import annotations

from whet.recipe.importers.hub_datasets import leave_out_shared
from whet.recipe.importers.sheet import Sheet
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


def hold_out(sheet: Sheet, key: str) -> None:
    """Validation rows off the training sources: a share is the last of every source, a number the first of one.

    A share is written in whole percent. `rows` of a source, where it limits them, are shared out likewise.
    """
    size, sources = sheet.number(key, 0), sheet.tree["data"]["train"]
    if not size:
        sheet.drop(key, "no validation rows are asked for")
    elif any("[" in source.get("split", "train") for source in sources):
        sheet.refuse(key, "a source is a slice already: cut the validation rows off yourself (data.validation)")
    elif size < 1:
        percent = max(1, round(100 * size))
        for index, source in enumerate(sources):
            _cut(sheet, index, dict(source), f"[:{100 - percent}%]", f"[{100 - percent}%:]", size)
        _map_cut(sheet, key, f"the last {percent} % of every source, instead of {100 * size:g} % drawn at random")
    elif len(sources) > 1 or "rows" in sources[0]:
        sheet.refuse(key, "cut the validation rows off yourself: data.train.0.split and data.validation.0")
    else:
        _cut(sheet, 0, dict(sources[0]), f"[{int(size)}:]", f"[:{int(size)}]", 0)
        _map_cut(sheet, key, "the first rows, instead of some drawn at random")


def _cut(sheet: Sheet, index: int, source: dict[str, object], train: str, held_out: str, share: float) -> None:
    name, rows = source.get("split", "train"), source.get("rows")
    parts = {"train": f"{name}{train}", "validation": f"{name}{held_out}"}
    for part, split in parts.items():
        for setting, value in (source | {"split": split}).items():
            sheet.put(f"data.{part}.{index}.{setting}", value)
    if isinstance(rows, int):
        num_held_out = max(1, round(rows * share))
        sheet.put(f"data.train.{index}.rows", rows - num_held_out)
        sheet.put(f"data.validation.{index}.rows", num_held_out)
    leave_out_shared(sheet, str(source["source"]))


def _map_cut(sheet: Sheet, key: str, reason: str) -> None:
    sheet.map(key, "data.validation.0.split", sheet.tree["data"]["validation"][0]["split"], reason)


def _written(stretch: Stretch) -> str:
    sign = "%" if stretch.is_percent else ""
    start = f"{stretch.start}{sign}" if stretch.start else ""
    stop = "" if stretch.stop is None else f"{stretch.stop}{sign}"
    return f"{stretch.name}[{start}:{stop}]"
