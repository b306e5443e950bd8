"""One process, one parser, one engine: `worker.py TARGET ENGINE --seconds S --seed N --output FILE`.

Engines: `mutation` damages the corpus at random, `hypothesis` draws documents, `atheris` follows the coverage. The
corpus itself comes first, in every engine. FILE gets how many inputs were read, what went wrong, and the slowest input;
FILE.input always holds the input at work, so that what kills the process is known too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

from fuzz_inputs import CANARY, MAX_BYTES, WORDS, corpus_of, mutated  # noqa: E402
from fuzz_targets import TARGETS, Target, open_target  # noqa: E402

_MAX_FAULTS = 20
_NOTE_SECONDS = 1.0
_LARGEST = 4 * MAX_BYTES


class OutOfTime(KeyboardInterrupt):
    """The time of this worker is over; hypothesis lets nothing else through at once."""


class Worker:
    """Reads inputs with one parser and keeps the account."""

    def __init__(self, name: str, *, seconds: float, output: Path, scratch: Path) -> None:
        import fuzz_guard

        self.name, self.target, self.output = name, TARGETS[name], output
        self.num_inputs = 0
        self.faults: dict[str, dict[str, Any]] = {}
        self.slowest_ms, self.slowest = 0.0, b""
        self.scratch = scratch
        machinery = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec") if self.target.uses_child else ()
        self._guard = fuzz_guard.Guard(scratch, allowed=machinery, engine=output.parent)
        self._limit = fuzz_guard.time_limit
        self._too_slow = fuzz_guard.TooSlowError
        self._clock = time.perf_counter if self.target.uses_child else time.process_time
        self._at_work = _shared_note(Path(f"{output}.input"))
        fuzz_guard.take_alarms()
        fuzz_guard.limit_memory(self.target.memory_gb)
        self._parse = open_target(name, scratch)
        for entry in corpus_of(name):  # imports what is imported late, before the guard watches
            self.read(entry)
        self._guard.watch()
        self._seconds, self._noted = seconds, 0.0
        self.begin()

    def begin(self) -> None:
        """The time of this worker begins; again where an engine had to start first."""
        self._ends = time.monotonic() + self._seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._ends or len(self.faults) >= _MAX_FAULTS

    def read(self, data: bytes) -> None:
        """One input through the parser."""
        data = data[:_LARGEST]
        self._at_work.seek(0)
        self._at_work.write(len(data).to_bytes(8, "little") + data)
        self._guard.seen.clear()  # what the engine does is its own business
        started = self._clock()
        fault = self._fault_of(data)
        taken = 1000 * (self._clock() - started)
        self.num_inputs += 1
        if taken > self.slowest_ms:
            self.slowest_ms, self.slowest = taken, data
        if self._guard.seen:
            fault = fault or ("did what no parser may", self._guard.seen[0])
        if fault is not None:
            self._note_fault(*fault, data)

    def _fault_of(self, data: bytes) -> tuple[str, str] | None:
        """(what it was and where, the whole story) of an error that the parser may not raise."""
        try:
            with self._limit(self.target.max_seconds):
                self._parse(data)
        except self.target.raises:
            return None
        except self._too_slow:
            return f"took more than {self.target.max_seconds:g} s", traceback.format_exc(limit=-3)
        except (Exception, RecursionError, MemoryError) as error:  # noqa: BLE001 - finding these is what this is for
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "whet" in f.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
            return f"{type(error).__name__} at {place}", traceback.format_exc(limit=-6)[-3000:]
        return None

    def _note_fault(self, key: str, story: str, data: bytes) -> None:
        known = self.faults.get(key)
        if known is None or len(data) < known["num_bytes"]:
            digest = hashlib.sha256(data).hexdigest()[:12]
            path = self.output.with_name(f"{self.name}-{digest}.input")
            path.write_bytes(data)
            times = known["times"] if known else 0
            self.faults[key] = {"fault": key, "story": story, "file": path.name, "num_bytes": len(data), "times": times}
        self.faults[key]["times"] += 1

    def write_account(self, **more: Any) -> None:
        """Keep the account on the disk; called again and again, the last one counts."""
        if (Path.cwd() / CANARY).exists() or (self.scratch / CANARY).exists():
            self.faults["an input was executed"] = {"fault": "an input was executed", "story": CANARY, "times": 1}
        slowest = self.output.with_name(f"{self.name}-slowest.input")
        slowest.write_bytes(self.slowest)
        document = {
            "num_inputs": self.num_inputs,
            "slowest_ms": round(self.slowest_ms, 1),
            "slowest_bytes": len(self.slowest),
            "faults": list(self.faults.values()),
            **more,
        }
        draft = self.output.with_suffix(".draft")
        draft.write_text(json.dumps(document), encoding="utf-8")
        draft.replace(self.output)

    def write_now_and_then(self) -> None:
        """The account once a second, for engines that may end the process."""
        if time.monotonic() - self._noted > _NOTE_SECONDS:
            self._noted = time.monotonic()
            self.write_account()


def _shared_note(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(_LARGEST + 8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), _LARGEST + 8)


def by_mutation(worker: Worker, seed: int) -> None:
    """The corpus, damaged at random."""
    random, entries = Random(f"{seed} {worker.name}"), corpus_of(worker.name)
    while not worker.is_over:
        worker.read(mutated(random.choice(entries), entries, WORDS, random))


def by_hypothesis(worker: Worker, seed: int) -> None:
    """Documents drawn by hypothesis, in rounds of two hundred."""
    from fuzz_documents import documents
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    num_before = worker.num_inputs
    for number in range(1_000_000):
        if worker.is_over and worker.num_inputs > num_before:
            return

        @seeded(1_000_000 * seed + number)
        @settings(max_examples=200, database=None, deadline=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(documents(worker.name))
        def read(data: bytes) -> None:
            if worker.num_inputs == num_before:
                worker.begin()  # hypothesis first looks for constants in the source of every module
            if worker.is_over:
                raise OutOfTime
            worker.read(data)

        try:
            read()
        except OutOfTime:
            return


def by_atheris(worker_of: Callable[[], Worker], seed: int) -> None:
    """Coverage-guided: inputs that reach new lines of whet are damaged further. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["whet"]):
        worker = worker_of()
    entries = corpus_of(worker.name)

    def read(data: bytes) -> None:
        worker.read(data)
        worker.write_now_and_then()
        if worker.is_over:
            worker.write_account(num_kept=sum(1 for _ in folder.iterdir()))
            sys.stderr.flush()
            os._exit(0)  # libFuzzer has no other way out that lets the account be written

    def change(data: bytes, max_bytes: int, number: int) -> bytes:
        if number % 2:
            found: bytes = atheris.Mutate(data, max_bytes)
            return found
        return mutated(bytes(data), entries, WORDS, Random(number))[:max_bytes]

    folder = worker.output.with_name(f"{worker.name}-kept")
    folder.mkdir(exist_ok=True)
    for number, entry in enumerate(entries):
        (folder / f"corpus-{number}").write_bytes(entry)
    arguments = [
        sys.argv[0],
        f"-seed={seed}",
        f"-max_len={MAX_BYTES}",
        "-timeout=60",
        "-rss_limit_mb=0",
        "-verbosity=0",
    ]
    atheris.Setup([*arguments, str(folder)], read, custom_mutator=change)
    worker.begin()
    atheris.Fuzz()


def _arguments(given: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("engine", choices=("mutation", "hypothesis", "atheris"))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(None if given is None else list(given))


def main() -> None:
    arguments = _arguments()
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if os.access(in_memory, os.W_OK) else None) as name:
        scratch = Path(name)
        os.chdir(scratch)

        def start() -> Worker:
            return Worker(arguments.target, seconds=arguments.seconds, output=arguments.output, scratch=scratch)

        if arguments.engine == "atheris":
            by_atheris(start, arguments.seed)
            return
        worker = start()
        (by_mutation if arguments.engine == "mutation" else by_hypothesis)(worker, arguments.seed)
        worker.write_account()


__all__ = ["Target", "Worker"]

if __name__ == "__main__":
    main()
