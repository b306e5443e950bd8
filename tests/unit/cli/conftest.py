"""The command line as tests of several verbs call it."""

import sys

import pytest
import typer

from whet.cli import main


@pytest.fixture
def call(monkeypatch, capsys):
    """The command line in this process: (exit code, standard output, standard error)."""

    def run_main(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(main, "app", typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False))
        monkeypatch.setattr(sys, "argv", ["whet", *arguments])
        with pytest.raises(SystemExit) as caught:
            main.main()
        return (caught.value.code, *capsys.readouterr())

    return run_main
