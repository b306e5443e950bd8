"""Copy live code and measured results into the pages that show them; `--check` only says which are out of date.

A page asks for code with `<!-- code: PATH#NAME -->` before a fenced block; the source marks it with
`# docs: start-NAME` and `# docs: end-NAME`. `<!-- KIND -->` ... `<!-- end KIND -->` holds the tables of that kind, see
`TABLES_OF`; `<!-- KIND: NAME -->` one of several.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from estimate_tables import COMPUTED as ESTIMATE_TABLES
from estimate_tables import grid_table
from long_tables import fuzz_table, soak_table
from reliability_table import fault_tables
from result_tables import SPEED_TABLES, TABLES, gpu_table, many_rows_table, result_tables
from scale_tables import TABLES as SCALE_TABLES
from seed_tables import last_run, seed_table
from verb_tables import verb_reference

from whet.cli.preview import preview_run
from whet.evaluation.metrics import METRICS
from whet.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = (
    "docs/follow-a-batch.md",
    "docs/evaluation.md",
    "docs/speed.md",
    "docs/scale.md",
    "docs/reliability.md",
    "docs/estimates.md",
    "docs/verbs.md",
    "docs/seeds-line-by-line.md",
    "README.md",
    "recipes/README.md",
)
_BLOCK = re.compile(r"(<!-- code: (?P<path>[^#\s]+)#(?P<name>\S+) -->\n```\w*\n).*?(?=```)", re.DOTALL)


def live_code(path: str, name: str) -> str:
    """The lines between the two markers of `name` in `path`; ValueError when they are not there once each."""
    text = (ROOT / path).read_text(encoding="utf-8")
    parts = re.findall(rf"^# docs: start-{name}\n(.*?)^# docs: end-{name}\n", text, re.DOTALL | re.MULTILINE)
    if len(parts) != 1:
        raise ValueError(f"{path} has no single block named {name}")
    return str(parts[0]).strip() + "\n"


def refreshed(page: str) -> str:
    """The text of `page` with every code block as it is in the source now."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = _BLOCK.sub(lambda m: m[1] + live_code(m["path"], m["name"]), text)
    return _TABLE.sub(lambda m: f"{m['start']}\n{TABLES_OF[m['kind']](m['name'] or '')}\n{m['end']}", text)


def scale_table(name: str) -> str:
    """A table of docs/scale.md: computed, but for that of many rows."""
    return result_tables({"many_rows": many_rows_table}) if name == "many rows" else SCALE_TABLES[name]()


def estimate_table(name: str) -> str:
    """A table of docs/estimates.md: computed, but for that of measured runs."""
    return result_tables({"estimate_grid": grid_table}) if name == "grid" else ESTIMATE_TABLES[name]()


def metric_table() -> str:
    """Every metric with its unit, direction and source, from the table that scores."""
    words = {True: "more", False: "less", None: "neither"}
    lines = ["| metric | unit | better is | what it is |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {metric.unit} | {words[metric.higher_is_better]} | {metric.source} |"
        for name, metric in METRICS.items()
    ]
    return "\n".join(lines)


def recipe_table() -> str:
    """Every recipe with its numbers, from the file itself."""
    lines = [
        "| recipe | model | trains | data | steps | trainable weights | measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        name = path.relative_to(ROOT / "recipes").as_posix()
        preview = preview_run(load_recipe(path))
        adapter = preview.recipe.adapter
        method = "all weights" if adapter.method == "none" else f"LoRA, rank {adapter.rank}"
        rows = ", ".join(source.source for source in preview.recipe.data.train)
        steps = f"{preview.plan.total_steps:,}" if preview.plan else "unknown"
        if preview.recipe.train.fit_seconds is not None:
            steps = f"what fits into {preview.recipe.train.fit_seconds:g} s"
        trainable = f"{preview.weights.num_trainable:,}" if preview.weights else "unknown"
        header = path.read_text(encoding="utf-8").split("version:")[0]
        measured = "no" if re.search(r"Not\s+(# )?measured", header) else "yes"
        lines.append(
            f"| [{name}]({name}) | {preview.recipe.model.id} | {method} | {rows} | {steps} | {trainable} | {measured} |"
        )
    return "\n".join(lines)


TABLES_OF: dict[str, Callable[[str], str]] = {
    "results": lambda _: result_tables(TABLES),
    "speed results": lambda _: result_tables(SPEED_TABLES),
    "gpu results": lambda _: gpu_table(),
    "scale": scale_table,
    "estimates": estimate_table,
    "seeds": lambda name: last_run() if name == "run" else seed_table(name),
    "faults": lambda _: result_tables({"faults": fault_tables}),
    "fuzz": lambda _: result_tables({"fuzz": fuzz_table}),
    "soak": lambda _: result_tables({"soak": soak_table}),
    "metrics": lambda _: metric_table(),
    "verbs": lambda _: verb_reference(),
    "recipes": lambda _: recipe_table(),
}
"""kind of a marker -> the table between it and its end, by the name behind its colon"""
_TABLE = re.compile(
    rf"(?P<start><!-- (?P<kind>{'|'.join(TABLES_OF)})(?:: (?P<name>[^>]+?))? -->).*?(?P<end><!-- end (?P=kind) -->)",
    re.DOTALL,
)


def main() -> None:
    stale = [page for page in PAGES if refreshed(page) != (ROOT / page).read_text(encoding="utf-8")]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"out of date: {', '.join(stale)}; run python docs/refresh.py")
        return
    for page in stale:
        (ROOT / page).write_text(refreshed(page), encoding="utf-8")


if __name__ == "__main__":
    main()
