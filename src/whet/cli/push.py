"""`whet push FOLDER OWNER/NAME`: an export goes to the hub, after its files were listed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli import verbosity
from whet.cli.output import Json, give, say


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of an export.", metavar="EXPORT")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub; created if missing.", metavar="OWNER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; created if missing. Default main.")] = None,
    unproven: Annotated[bool, typer.Option("--unproven", help="Push without a proof of equality.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and stop; needs no network.")] = False,
    as_json: Json = False,
) -> None:
    """Send an export to the hub: weights, tokenizer, configuration, model card and proof.

    Never sent: checkpoints, optimizer states, logs and rows. The token comes from HF_TOKEN or from `hf auth login`.
    """
    from whet.cli.quiet import quiet_libraries

    verbosity.speak_to_program(as_json)
    quiet_libraries()
    from whet.export.hub import plan_upload
    from whet.models.hub_upload import check_name, upload

    check_name(repo)
    plan = plan_upload(folder, allows_unproven=unproven)
    for name, path in plan.files.items():
        say(f"{path.stat().st_size / 1e6:12,.3f} MB  {name}")
    say(f"{plan.num_bytes / 1e6:12,.3f} MB  in {len(plan.files)} files for {repo}")
    if plan.left_out:
        say(f"not sent: {', '.join(plan.left_out)}")
    if "README.md" not in plan.files:
        say("there is no README.md: without a model card nobody can tell what this is")
    address = None
    if dry_run:
        say("dry run: nothing was sent")
    else:
        address = upload(repo, plan.files, is_private=private, revision=revision, message="Upload by whet push")
        say(f"pushed: {address}")
    if as_json:
        sizes = {name: path.stat().st_size for name, path in plan.files.items()}
        give({"repository": repo, "address": address, "files": sizes, "not_sent": list(plan.left_out)})
