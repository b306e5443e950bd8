"""The child process that compares formulas by math-verify: this file, the library, and nothing of whet.

Run as a file, never imported. Each line on stdin is `[gold, answer]` in LaTeX, each line on stdout `true` or `false`.
Memory and files are limited by the operating system; the parent limits wall time and ends this process when it is up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import sys

from math_verify import LatexExtractionConfig, parse, verify

_MAX_BYTES = 2 << 30


def is_same(gold: str, answer: str) -> bool:
    """Whether math-verify calls the two formulas equal; its own alarms are off, because the parent has a harder one."""
    both = [
        parse(f"${text}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None) for text in (gold, answer)
    ]
    return all(both) and bool(verify(*both, timeout_seconds=None))


def main() -> None:
    logging.disable()
    for kind, amount in ((resource.RLIMIT_AS, _MAX_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        # macOS has no limit on address space
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (amount, amount))
    output = sys.stdout.buffer
    output.write(b"ready\n")
    output.flush()
    for line in sys.stdin.buffer:
        output.write(b"true\n" if is_same(*json.loads(line)) else b"false\n")
        output.flush()


if __name__ == "__main__":
    main()
