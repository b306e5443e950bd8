"""`whet doctor`: this machine, what ranks will meet on it (--dist), or whether a recipe keeps the laws (--math)."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.output import note, say

if TYPE_CHECKING:
    from whet.doctor.finding import Finding
    from whet.doctor.law import Law

_MARKS = {"good": "ok   ", "note": "note ", "fault": "FAULT"}


def doctor(
    dist: Annotated[
        bool, typer.Option("--dist", help="Network, InfiniBand, and the variables that guides tell people to set.")
    ] = False,
    nproc: Annotated[
        int, typer.Option(help="With --dist: let this many processes of this machine meet and time all-reduces.", min=0)
    ] = 0,
    math: Annotated[
        Path | None,
        typer.Option(
            "--math",
            help="Try the laws of training on this recipe with a shrunken model: one gradient however a step is cut, "
            "packed = separate, merged = live, resume = not stopped, ...",
            metavar="RECIPE",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
) -> None:
    """Look at this machine, or at a recipe, and say what would go wrong, why, and how to mend it.

    Without options: libraries, torch and GPUs, processor and threads, memory, disks, and whether there are keys.

    Exit code 1 when a fault was found.
    """
    from whet.errors import RecipeError

    if math is not None:
        _try_laws(math, as_json=as_json)
        return
    if nproc and not dist:
        raise RecipeError("--nproc is for --dist", where="whet doctor", mend=f"whet doctor --dist --nproc {nproc}")
    findings = _between_ranks(nproc) if dist else _around()
    if as_json:
        say(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            _tell(finding)
        if not dist:
            _sum_up(findings)
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)


def _around() -> list[Finding]:
    from whet.doctor.overview import look_around

    return look_around(Path.cwd())


def _between_ranks(num_ranks: int) -> list[Finding]:
    from whet.doctor.dist import VARIABLES, check_distributed
    from whet.doctor.local_ranks import try_local_ranks
    from whet.doctor.machine import look_at_machine
    from whet.doctor.readers import libraries, readers

    among = libraries()
    set_here = [variable.name for variable in VARIABLES if variable.name in os.environ]
    findings = check_distributed(
        look_at_machine(), os.environ, readers(set_here, among), has_nccl=any("nccl" in path.name for path in among)
    )
    return [*findings, try_local_ranks(num_ranks)] if num_ranks else findings


def _try_laws(path: Path, *, as_json: bool) -> None:
    from whet.cli.quiet import quiet_libraries
    from whet.cli.recipe_file import load_any_recipe
    from whet.doctor.math_check import try_laws

    quiet_libraries()
    tried = try_laws(load_any_recipe(path, (), lambda line: typer.echo(line, err=True)))
    if as_json:
        laws = [asdict(law) | {"is_kept": law.is_kept} for law in tried.laws]
        say(json.dumps({"problem": tried.problem, "seconds": tried.seconds, "laws": laws}, indent=1))
    else:
        say(f"{path}, shrunken: {tried.problem}")
        for law in tried.laws:
            _tell_law(law)
        num_broken = sum(not law.is_kept for law in tried.laws)
        came_out = f"{num_broken} broken" if num_broken else "all kept"
        say(f"{len(tried.laws)} laws, {came_out}, in {tried.seconds:.0f} s")
    if not tried.is_sound:
        raise typer.Exit(1)


def _tell_law(law: Law) -> None:
    if law.difference is None:
        say(f"{'-':5} {law.name:23} {law.compared}")
        return
    mark = _MARKS["good" if law.is_kept else "fault"]
    say(f"{mark} {law.name:23} {law.difference:8.1e} of at most {law.bound:7.1e} {law.unit}")
    say(f"        {law.compared}")
    if not law.is_kept:
        say(f"        most in: {law.where}" if law.where else "")
        say(f"        why: {law.broken}")


def _sum_up(findings: list[Finding]) -> None:
    num = {state: sum(finding.state == state for finding in findings) for state in _MARKS}
    say(f"{len(findings)} checks: {num['fault']} faults, {num['note']} notes")
    note("next: mend the faults" if num["fault"] else "next: whet init for your rows, or whet train RECIPE")


def _tell(finding: Finding) -> None:
    say(f"{_MARKS[finding.state]} {finding.check}: {finding.found}")
    if finding.why:
        say(f"        why: {finding.why}")
    if finding.mend:
        say(f"        mend: {finding.mend}")
