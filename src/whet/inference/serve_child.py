"""transformers' own OpenAI-compatible server behind whet's guard: `python -m whet.inference.serve_child NAME ...`.

NAME is a model folder in the current folder and the name that requests use. `serve.py` starts it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from transformers.cli.serve import Serve
from transformers.utils import logging

from whet.inference.serve_guard import Guard


class GuardedServe(Serve):
    """`transformers serve` whose application is put behind the guard before its first request.

    A subclass, because the class builds and runs everything in its constructor; `start_server` is its last step when
    it is told not to block, and the only place where the application exists and does not run yet.
    """

    def start_server(self) -> None:
        application: Any = self.server.config.app
        self.server.config.app = Guard(application)
        self.server.run()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="whet.inference.serve_child")
    parser.add_argument("name")
    for option in ("--host", "--dtype", "--device"):
        parser.add_argument(option, required=True)
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args(arguments)
    settings: dict[str, Any] = vars(asked)
    logging.disable_progress_bar()
    GuardedServe(settings.pop("name"), **settings, trust_remote_code=False, non_blocking=True)


if __name__ == "__main__":
    main()
