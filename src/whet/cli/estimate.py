"""`whet estimate RECIPE`: memory, time, tokens, cost and disk of a run before it is made, for a GPU or this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.output import complain, say


def estimate(
    recipe: Annotated[Path, typer.Argument(help="Recipe (YAML).", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, such as adapter.rank=16.", metavar="[KEY=VALUE]..."),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="For this GPU (h200, h100, a100, l40s, rtx4090, ...); default: this machine.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="GPUs, or processes of this machine, that train together.")] = 1,
    price: Annotated[
        float | None, typer.Option(min=0, help="Price of one device for an hour, in any currency.")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="Propose settings that keep a device within this memory.", metavar="24GB")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Number of training rows, where they are not read.")] = None,
    mean_length: Annotated[float | None, typer.Option(min=1, help="Mean tokens of a row; then no row is read.")] = None,
    longest: Annotated[int | None, typer.Option(min=1, help="Tokens of the longest row, where no row is read.")] = None,
    read: Annotated[
        bool, typer.Option("--read", help="Read rows and tokenizer also where they must be fetched from the hub.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Make a few real passes here, and take time and memory from them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what RECIPE will need: memory by component, time, tokens, cost, disk. Nothing is trained.

    Neither weights nor torch are needed where the model's shape is known by its name or a config.json, and no rows
    where --rows and --mean-length are given. Times for a GPU follow from its data sheet and are not measured.
    """
    import json

    from whet.cli.estimate_inputs import given_bytes, look, measure_here, refuse_what_does_nothing, target_of
    from whet.cli.estimate_json import estimate_json
    from whet.cli.estimate_text import estimate_lines
    from whet.cli.recipe_file import load_any_recipe

    refuse_what_does_nothing(gpu=gpu, measure=measure, count=count, mean_length=mean_length, rows=rows)
    loaded = load_any_recipe(recipe, overrides or (), complain)
    target = target_of(loaded, gpu, count)
    seen = look(loaded, target, num_rows=rows, mean_length=mean_length, longest=longest, reads=read, say=complain)
    measured = measure_here(seen, complain) if measure else None
    proposal = seen.propose(given_bytes(fit)) if fit is not None else None
    if as_json:
        say(json.dumps(estimate_json(seen, price=price, measured=measured, proposal=proposal), indent=1))
        return
    for line in estimate_lines(seen, price=price, measured=measured, proposal=proposal):
        say(line)
