"""`make soak`: thousands of tiny steps with checkpoints, evaluations, kills and continuations; does anything grow?

Two runs of the same recipe go on side by side: one is killed and stopped at random, one is left alone. Both are watched
from outside: memory, open files, threads and disk. In the end both must have computed the same, to the last bit.

    python tests/faults/soak.py --steps 20000        writes benchmarks/results/soak.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from workplace import Workplace, make_workplace, write_rows, write_tiny_model  # noqa: E402

CLAIM = "a long run neither grows nor loses or repeats a step, however often it is killed"
SAVE_EVERY, EVALUATE_EVERY, KEEP = 100, 500, 3
MOST_MB_PER_1000_STEPS = 1.0
_LOOK_SECONDS = 0.25
_UNDISTURBED_SHARE = 0.4
"""of the steps, at the end: a long stretch without a kill"""
_STUCK_SECONDS = 900.0
_TAIL_BYTES = 1 << 14
_NUM_ROWS = 2000
"""an epoch of 1,000 steps: each is saved at its end"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at a run from outside found."""

    session: int
    """counts the processes of the run"""
    step: int
    rss_mb: float
    num_files: int
    num_threads: int
    disk_mb: float
    """of the run folder, without metrics.jsonl"""
    num_checkpoints: int


@dataclass(slots=True, kw_only=True)
class Soaked:
    """One run to its end, and what was seen of it."""

    place: Workplace
    looks: list[Look] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """how each process ended"""
    most_redone: int = 0
    """steps that a continuation had to make again"""
    seconds: float = 0.0


def soak(folder: Path, model: Path, *, steps: int, kills: Sequence[tuple[int, signal.Signals]]) -> Soaked:
    """Train `steps` steps in `folder`; at each step of `kills` the process gets the signal, and a new one goes on."""
    soaked = Soaked(place=_workplace(folder, model, steps))
    started = time.monotonic()
    for session, (until, number) in enumerate([*kills, (None, None)]):
        before, taken_back = soaked.place.last_step(), len(_taken_back(soaked.place))
        with (folder / "said.txt").open("a") as said:
            process = soaked.place.start("train", str(soaked.place.recipe), stdout=said)
        _watch(soaked, process, session=session, until=until)
        if until is not None and number is not None:
            process.send_signal(number)
        code = process.wait()
        soaked.ends.append(f"step {soaked.place.last_step()}: " + (f"signal {-code}" if code < 0 else f"code {code}"))
        if code not in (0, 75, -signal.SIGKILL):
            raise AssertionError((folder / "said.txt").read_text(encoding="utf-8")[-3000:])
        for step in _taken_back(soaked.place)[taken_back:]:
            soaked.most_redone = max(soaked.most_redone, before - step)
    soaked.seconds = time.monotonic() - started
    return soaked


def _workplace(folder: Path, model: Path, steps: int) -> Workplace:
    folder.mkdir(parents=True)
    place = make_workplace(folder, model)
    held_out = folder / "held_out.jsonl"
    write_rows(held_out, [{"question": f"What is {n} minus {n + 2}?", "answer": "It is -2."} for n in range(4)])
    place.write_recipe(
        adapter={"rank": 2, "alpha": 4, "targets": ["q_proj"]},
        data={"train": [{"source": str(place.rows)}], "validation": [{"source": str(held_out)}]},
        batch={"global_size": 2, "micro_size": 2},
        train={"max_steps": steps, "epochs": steps, "save_every": SAVE_EVERY, "eval_every": EVALUATE_EVERY,
               "keep": KEEP},
        evaluate=[{"name": "held-out", "source": {"source": str(held_out)}, "max_new_tokens": 4, "batch_rows": 4,
                   "every": EVALUATE_EVERY}],
    )  # fmt: skip
    return place


def _watch(soaked: Soaked, process: subprocess.Popen[str], *, session: int, until: int | None) -> None:
    """Look at the process until it ends or has made step `until`."""
    moved, newest = time.monotonic(), -1
    while process.poll() is None:
        step = _last_step(soaked.place.folder / "run" / "metrics.jsonl")
        if step != newest:
            moved, newest = time.monotonic(), step
        if until is not None and step >= until:
            return
        if time.monotonic() - moved > _STUCK_SECONDS:
            process.kill()
            raise AssertionError(f"no step after {step} for {_STUCK_SECONDS:.0f} s")
        look = _look(process.pid, soaked.place.folder / "run", session, step)
        if look is not None:
            soaked.looks.append(look)
        time.sleep(_LOOK_SECONDS)


def _last_step(metrics: Path) -> int:
    """From the end of the log, so that a look costs the same however long it is."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().split(b"\n")[1:-1]
    except OSError:
        return 0
    return max((record["step"] for line in lines if (record := json.loads(line))["kind"] == "step"), default=0)


def _look(process: int, run: Path, session: int, step: int) -> Look | None:
    """None once the process is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
        said = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        num_files = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
        rss_mb = int(said["VmRSS"].split()[0]) / 1024
    except (OSError, KeyError):
        return None
    return Look(
        session=session,
        step=step,
        rss_mb=rss_mb,
        num_files=num_files,
        num_threads=int(said["Threads"]),
        disk_mb=_disk_bytes(run) / 1e6,
        num_checkpoints=sum(1 for path in run.glob("checkpoint-[0-9]*")),
    )


def _disk_bytes(run: Path) -> int:
    total = 0
    for folder, _, names in os.walk(run):
        for name in names:
            try:
                total += 0 if name == "metrics.jsonl" else (Path(folder) / name).lstat().st_size
            except OSError:
                continue  # a draft that was just renamed
    return total


def _taken_back(place: Workplace) -> list[int]:
    """After which steps the run went on and had to take lines of later ones out of its log."""
    return [line["step"] for line in place.lines() if line["kind"] == "event" and "resumed after" in line["text"]]


def slope_mb(looks: Sequence[Look], *, warm_up_steps: int) -> float:
    """MB per 1,000 steps by least squares, one slope for all processes, each with a level of its own.

    Looks before `warm_up_steps` of a process, counted from its first, do not count.
    """
    steps, levels = [], []
    for session in {look.session for look in looks}:
        own = [look for look in looks if look.session == session and look.step]
        warm = [look for look in own if look.step >= own[0].step + warm_up_steps]
        if len(warm) > 1:
            steps += list(np.array([look.step for look in warm]) - np.mean([look.step for look in warm]))
            levels += list(np.array([look.rss_mb for look in warm]) - np.mean([look.rss_mb for look in warm]))
    spread = float(np.dot(steps, steps))
    return 1000 * float(np.dot(steps, levels)) / spread if spread else 0.0


def account(soaked: Soaked, *, steps: int, warm_up_steps: int) -> dict[str, Any]:
    """What a run showed, in numbers."""
    warm = [look for look in soaked.looks if look.step]
    by_session = [[look for look in warm if look.session == s] for s in sorted({look.session for look in warm})]
    logged = [line["step"] for line in soaked.place.steps()]
    metrics = soaked.place.folder / "run" / "metrics.jsonl"
    late = [look for own in by_session for look in own if look.step >= own[0].step + warm_up_steps]
    return {
        "steps": len(logged),
        "seconds": round(soaked.seconds, 1),
        "processes": len(soaked.ends),
        "ends": soaked.ends,
        "is_log_whole": logged == list(range(1, steps + 1)),
        "most_steps_redone": soaked.most_redone,
        "mb_per_1000_steps": round(slope_mb(soaked.looks, warm_up_steps=warm_up_steps), 3),
        "rss_mb": [round(min(look.rss_mb for look in late), 1), round(max(look.rss_mb for look in late), 1)],
        "open_files": sorted({look.num_files for look in late}),
        "threads": sorted({look.num_threads for look in late}),
        "most_disk_mb": round(max(look.disk_mb for look in warm), 2),
        "disk_mb_at_the_end": round(_disk_bytes(soaked.place.folder / "run") / 1e6, 2),
        "most_checkpoints": max(look.num_checkpoints for look in warm),
        "log_bytes_per_step": round(metrics.stat().st_size / max(1, len(logged)), 1),
        "looks": len(soaked.looks),
    }


def side_by_side(folder: Path, *, steps: int, kills: Sequence[tuple[int, signal.Signals]]) -> tuple[Soaked, Soaked]:
    """The disturbed run and the one that was left alone."""
    model = folder / "model" / "tiny"
    write_tiny_model(model)
    long_epoch = [{"question": f"What is {n} plus {n + 1}?", "answer": f"It is {2 * n + 1}."} for n in range(_NUM_ROWS)]
    write_rows(model.parent / "rows.jsonl", long_epoch)
    done: dict[str, Soaked] = {}
    failed: list[BaseException] = []

    def work(name: str, its_kills: Sequence[tuple[int, signal.Signals]]) -> None:
        try:
            done[name] = soak(folder / name, model, steps=steps, kills=its_kills)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked
            failed.append(error)

    threads = [threading.Thread(target=work, args=job) for job in (("disturbed", kills), ("alone", ()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return done["disturbed"], done["alone"]


def choose_kills(steps: int, *, number: int, seed: int) -> list[tuple[int, signal.Signals]]:
    """Random steps of the first part of the run, killed and asked to stop by turns."""
    random = Random(seed)
    last = int(steps * (1 - _UNDISTURBED_SHARE))
    chosen = sorted(random.sample(range(SAVE_EVERY, last), number))
    return [(step, signal.SIGTERM if turn % 3 == 2 else signal.SIGKILL) for turn, step in enumerate(chosen)]


def faults_of(disturbed: Soaked, alone: Soaked, *, steps: int, warm_up_steps: int) -> list[str]:
    """What is not as it must be, in words."""
    found = []
    for name, soaked in (("disturbed", disturbed), ("alone", alone)):
        told = account(soaked, steps=steps, warm_up_steps=warm_up_steps)
        checks: tuple[tuple[bool, str], ...] = (
            (told["is_log_whole"], "a step is missing from the log, or stands there twice"),
            (told["mb_per_1000_steps"] < MOST_MB_PER_1000_STEPS, f"{told['mb_per_1000_steps']} MB per 1,000 steps"),
            (_is_flat(soaked, lambda look: look.num_files, warm_up_steps), f"open files grow: {told['open_files']}"),
            (_is_flat(soaked, lambda look: look.num_threads, warm_up_steps), f"threads grow: {told['threads']}"),
            (told["most_checkpoints"] <= KEEP + 1, f"{told['most_checkpoints']} checkpoints at a time"),
            (told["most_steps_redone"] <= SAVE_EVERY, f"{told['most_steps_redone']} steps had to be made again"),
        )
        found += [f"{name}: {what}" for holds, what in checks if not holds]
    if disturbed.place.trajectory() != alone.place.trajectory():
        found.append("the two runs did not compute the same steps")
    if disturbed.place.hashes() != alone.place.hashes():
        found.append("the two runs did not end with the same weights and moments")
    return found


def _is_flat(soaked: Soaked, number: Callable[[Look], int], warm_up_steps: int) -> bool:
    """Whether the most of the last third of every process is no more than the most of its first third."""
    for session in {look.session for look in soaked.looks}:
        own = [look for look in soaked.looks if look.session == session and look.step]
        warm = [number(look) for look in own if look.step >= own[0].step + warm_up_steps]
        third = len(warm) // 3
        if third and max(warm[-third:]) > max(warm[:third]) + 1:
            return False
    return True


def main() -> int:
    arguments = _arguments()
    kills = choose_kills(arguments.steps, number=arguments.kills, seed=arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        disturbed, alone = side_by_side(Path(name), steps=arguments.steps, kills=kills)
        told = {
            each: account(soaked, steps=arguments.steps, warm_up_steps=arguments.warm_up)
            for each, soaked in (("disturbed", disturbed), ("alone", alone))
        }
        found = faults_of(disturbed, alone, steps=arguments.steps, warm_up_steps=arguments.warm_up)
        is_equal = disturbed.place.hashes() == alone.place.hashes()
    for each, numbers in told.items():
        print(f"{each}: {numbers}", flush=True)
    for what in found:
        print(f"NOT AS PROMISED: {what}", flush=True)
    from machine import write_result

    result = {"steps": arguments.steps, "save_every": SAVE_EVERY, "evaluate_every": EVALUATE_EVERY, "keep": KEEP,
              "warm_up_steps": arguments.warm_up, "is_equal": is_equal, "faults": found, **told}  # fmt: skip
    write_result("soak", claim=CLAIM, command=f"make soak STEPS={arguments.steps}", result=result)
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=500, help="steps of each process that do not count")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
