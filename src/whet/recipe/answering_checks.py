"""Rules about how evaluation sets are answered and scored."""

from __future__ import annotations

from collections.abc import Iterator

from whet.recipe.problems import Finding, Path
from whet.recipe.schema import Recipe


def decoding_is_meant(recipe: Recipe) -> Iterator[Finding]:
    """`top_p` draws only where a temperature does, and a stop text has letters."""
    for index, entry in enumerate(recipe.evaluate):
        path: Path = ("evaluate", index)
        if entry.top_p < 1 and entry.temperature == 0:
            yield Finding(
                ((*path, "top_p"), (*path, "temperature")),
                "does nothing with temperature 0, which is greedy: remove it, or set a temperature",
            )
        if "" in entry.stop:
            yield Finding(((*path, "stop"),), "has an empty text, which would end every answer before its first letter")


def metrics_are_a_list(recipe: Recipe) -> Iterator[Finding]:
    """At least one metric, the first being the primary one, and none twice."""
    for index, entry in enumerate(recipe.evaluate):
        path: Path = ("evaluate", index, "metrics")
        if not entry.metrics:
            yield Finding((path,), "is empty: the verdict rests on the first metric")
        for name in sorted({name for name in entry.metrics if entry.metrics.count(name) > 1}):
            yield Finding((path,), f"names {name} twice")
