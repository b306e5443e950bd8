"""Entry point of the command `whet`: one short file per verb, heavy imports inside the verbs.

`whet --help` must answer without importing torch (tests/unit/cli/test_main.py), so this file imports only
typer and each verb module imports what it needs when it is called.
"""

from __future__ import annotations

import io
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

import typer

from whet.cli import surroundings, verbosity
from whet.cli.output import complain
from whet.errors import PeerLostError, RecipeError, WhetError
from whet.redact import without_secrets
from whet.shortage import told_as_error
from whet.streams import flush_or_leave

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
    typed = arguments.complete(sys.argv[1:])
    leave_by_exit_code(lambda: app(typed), help_command=_help_of(typed))


def leave_by_exit_code(command: Callable[[], object], *, help_command: str | None = None) -> None:
    """Run `command`; a known error prints what, where and how to mend it, and leaves by its exit code.

    An error without a mend ends with `help_command`, so that there is always something to type next.
    """
    sys.excepthook = _print_unexpected
    try:
        surroundings.prepare()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # a locale without the letter spells it out instead of stopping the run
            sys.stdout.reconfigure(errors="backslashreplace")
        with told_as_error():
            command()
    except WhetError as error:
        if verbosity.is_verbose():
            _print_unexpected(type(error), error, error.__traceback__)
        if isinstance(error, PeerLostError):
            # a launcher tells every rank to stop when one is lost; this one is on its way out, by its own exit code
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        hint = f"\n  help: {_help_for(error, help_command)}" if error.mend is None and help_command else ""
        complain(without_secrets(f"error: {error}{hint}"))
        sys.exit(error.exit_code)
    finally:
        for stream in (sys.stdout, sys.stderr):
            flush_or_leave(stream)


def _print_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback as Python prints it, without the secrets that a library put into its message."""
    lines = traceback.format_exception(kind, error, trace)
    complain(without_secrets("".join(lines)).rstrip("\n"))


def _help_for(error: WhetError, help_command: str) -> str:
    if isinstance(error, RecipeError):
        return f"whet recipe reference lists every key of a recipe, {help_command} every option"
    return help_command


def _help_of(arguments: Sequence[str]) -> str:
    """`whet VERB --help` of what was typed."""
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    return "whet --help" if verb is None else f"whet {verb} --help"
