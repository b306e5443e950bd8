"""Runs commands of whet in this process, one after the other, and tells what Python saw: `python verbs_under_watch.py
REQUEST.json ANSWER.json`.

An audit hook sees every object that a pickle asks for, every file that is opened and every program that is started,
whoever does it. What the commands print goes to this process's output.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Watch:
    """What happened since it was last asked."""

    def __init__(self, traps: list[str], canary: str) -> None:
        self._traps, self._canary = {os.path.realpath(trap) for trap in traps}, canary
        self._seen: list[str] = []
        self.is_on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "pickle.find_class":
            self._seen.append(f"unpickled {arguments[0]}.{arguments[1]}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path in self._traps:
                self._seen.append(f"opened {path}")
        elif event in ("os.system", "os.exec"):
            self._seen.append(f"{event} {arguments[0]!r}")

    def take(self) -> list[str]:
        """What was seen, and whether a trap went off."""
        seen, self._seen = self._seen, []
        return [*seen, *(["a trap went off"] if Path(self._canary).exists() else [])]


def run(arguments: list[str]) -> int:
    """The exit code of `whet ARGUMENTS`."""
    from whet.cli.main import main

    sys.argv = ["whet", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def main_of_tests() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer_path = Path(sys.argv[2])
    watch = Watch(request["traps"], request["canary"])
    sys.addaudithook(watch)
    answers = []
    for command in request["commands"]:
        sys.stdin = io.StringIO(command.get("stdin", ""))
        begun = time.monotonic()
        watch.is_on = True
        code = run(command["arguments"])
        watch.is_on = False
        answers.append({**command, "code": code, "seen": watch.take(), "seconds": time.monotonic() - begun})
        answer_path.write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main_of_tests()
