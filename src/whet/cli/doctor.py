"""`whet doctor --dist`: what ranks of several processes or machines will meet here, and what to change."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.output import say

if TYPE_CHECKING:
    from whet.doctor.finding import Finding

_MARKS = {"good": "ok   ", "note": "note ", "fault": "FAULT"}


def doctor(
    dist: Annotated[
        bool, typer.Option("--dist", help="Network, InfiniBand, and the variables that guides tell people to set.")
    ] = False,
    nproc: Annotated[
        int, typer.Option(help="With --dist: let this many processes of this machine meet and time all-reduces.", min=0)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
) -> None:
    """Look at this machine and say what would go wrong, why, and how to mend it.

    Exit code 1 when a fault was found.
    """
    from whet.doctor.dist import VARIABLES, check_distributed
    from whet.doctor.local_ranks import try_local_ranks
    from whet.doctor.machine import look_at_machine
    from whet.doctor.readers import libraries, readers
    from whet.errors import RecipeError

    if not dist:
        raise RecipeError("there is nothing to look at", where="whet doctor", mend="whet doctor --dist")
    among = libraries()
    set_here = [variable.name for variable in VARIABLES if variable.name in os.environ]
    findings = check_distributed(
        look_at_machine(), os.environ, readers(set_here, among), has_nccl=any("nccl" in path.name for path in among)
    )
    if nproc:
        findings.append(try_local_ranks(nproc))
    if as_json:
        say(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            _tell(finding)
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)


def _tell(finding: Finding) -> None:
    say(f"{_MARKS[finding.state]} {finding.check}: {finding.found}")
    if finding.why:
        say(f"        why: {finding.why}")
    if finding.mend:
        say(f"        mend: {finding.mend}")
