"""Every call by which a save changes the disk, as a place where it can be killed or refused.

The save runs alone (save_again.py) in a forked process under strace, which injects SIGKILL or an error into the N-th
call of one kind: first it is counted which calls there are, then each gets its turn.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forked_runs import Ended, ForkedRuns, count_calls
from save_again import order

CALLS = (
    "openat", "write", "pwrite64", "writev", "ftruncate", "fallocate", "fsync", "fdatasync", "chmod", "fchmod",
    "fchmodat", "mkdir", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir",
)  # fmt: skip
PROGRAM = "save_again:save"


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """A save that is made again and again: `source` becomes the newest checkpoint of copies of `before`."""

    forked: ForkedRuns
    source: Path
    """a whole checkpoint"""
    before: Path
    """a run folder right before that checkpoint is written"""
    parts: int = 1
    is_best: bool = False

    def counts(self, scratch: Path) -> dict[str, int]:
        """How often an undisturbed save makes each call."""
        log = scratch.with_name("calls.txt")
        ended = self._run(scratch, ("-o", str(log), "-e", f"trace={_names()}"))
        assert ended.code == 0, ended.said
        return count_calls(log.read_text(encoding="utf-8", errors="replace"))

    def points(self, scratch: Path, *, calls: tuple[str, ...] = CALLS) -> list[tuple[str, int]]:
        """(call, 1-based number) of every one, in turn."""
        counts = self.counts(scratch)
        return [(call, number + 1) for call in calls for number in range(counts.get(call, 0))]

    def disturbed(self, scratch: Path, call: str, number: int, injected: str) -> Ended:
        """The save in `scratch`, a new copy of the run folder; `injected` is `signal=KILL` or `error=EIO`."""
        inject = f"inject={call}:{injected}:when={number}"
        return self._run(scratch, ("-o", "/dev/null", "-e", f"trace={call}", "-e", inject))

    def _run(self, scratch: Path, strace: tuple[str, ...]) -> Ended:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(self.before, scratch)
        wanted = order(self.source, scratch, parts=self.parts, is_best=self.is_best)
        return self.forked.run(folder=scratch, environment=wanted, program=PROGRAM, strace=strace, waits_itself=True)


def _names() -> str:
    # a name that this processor's kernel does not have is passed over
    return ",".join(f"?{call}" for call in CALLS)


def files_of(folder: Path) -> Mapping[str, bytes]:
    """Name -> content."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kind_of_remains(run_folder: Path, newest: int) -> tuple[object, ...]:
    """What distinguishes run folders for whoever continues them: which checkpoint is whole, what lies beside it."""

    def remains() -> Iterator[str]:
        for path in sorted(run_folder.rglob("*")):
            if path.suffix == ".tmp":
                yield f"{'folder' if path.is_dir() else 'file'} in {path.parent.name.split('.')[0]}"
            elif path.name.startswith("checkpoint-") and not (path / "manifest.json").is_file():
                yield f"{path.name} without manifest"

    return (newest, *remains())
