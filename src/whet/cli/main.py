"""Entry point of the command `whet`: one short file per verb, heavy imports inside the verbs.

`whet --help` must answer without importing torch (tests/unit/cli/test_main.py), so this file imports only
typer and each verb module imports what it needs when it is called.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

import typer

from whet.errors import WhetError

app = typer.Typer(
    name="whet",
    help="Fine-tune Llama-family language models and prove whether the tuning helped.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    from whet.cli import arguments, verbs

    verbs.register(app)
    leave_by_exit_code(lambda: app(arguments.complete(sys.argv[1:])))


def leave_by_exit_code(command: Callable[[], object]) -> None:
    """Run `command`; a known error prints one sentence and its mend, and leaves by its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a locale without the letter spells it out instead of stopping the run
        sys.stdout.reconfigure(errors="backslashreplace")
    # nothing whet writes may be changed by every user of the machine, whatever the umask
    os.umask(os.umask(0o077) | 0o002)
    try:
        command()
    except WhetError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
