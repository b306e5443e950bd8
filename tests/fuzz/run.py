"""`make fuzz`: every parser under damaged, drawn and coverage-guided inputs, within a time limit.

Each parser runs in processes of its own (worker.py), two at a time. Faults are written to tests/fuzz/found and end the
command with code 1; the account goes to benchmarks/results/fuzz.json. The same seed gives the same damaged and drawn
inputs, as many of them as the machine manages.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "support"), str(ROOT / "benchmarks")]

from fuzz_targets import TARGETS  # noqa: E402

from machine import write_result  # noqa: E402

FOUND = HERE / "found"
CLAIM = "no input makes a parser crash, hang, fill the memory or run anything"
_SHARES = {"mutation": 0.5, "hypothesis": 0.15, "atheris": 0.35}
"""of the time of a target; without atheris its share is mutation's"""
_PATIENCE_SECONDS = 300.0
"""that a worker may take beside its own time: it starts, imports torch, and waits for a processor"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One worker's work."""

    target: str
    engine: str
    seconds: float


def main() -> int:
    arguments = _arguments()
    engines = [name for name in _SHARES if name != "atheris" or importlib.util.find_spec("atheris")]
    if "atheris" not in engines:
        print("atheris is not installed (pip install atheris): nothing follows the coverage", flush=True)
    jobs = plan(arguments.only or list(TARGETS), engines, seconds=arguments.seconds * arguments.workers)
    print(f"seed {arguments.seed}, {len(jobs)} jobs, about {arguments.seconds:.0f} s", flush=True)
    started = time.monotonic()
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(arguments.workers) as pool:
        accounts = list(pool.map(lambda job: work(job, Path(name), arguments.seed), jobs))
    by_target = collect(jobs, accounts)
    num_inputs = sum(each["inputs"] for each in by_target.values())
    num_faults = sum(len(each["faults"]) for each in by_target.values())
    print(f"{num_inputs:,} inputs, {num_faults} faults, {time.monotonic() - started:.0f} s", flush=True)
    if not arguments.only:
        command = f"make fuzz SECONDS={arguments.seconds:g} SEED={arguments.seed}"
        write_result("fuzz", claim=CLAIM, command=command, result=document(by_target, arguments.seed, engines))
    return 1 if num_faults else 0


def plan(targets: list[str], engines: list[str], *, seconds: float) -> list[Job]:
    """How `seconds` of one processor are divided."""
    shares = {engine: _SHARES[engine] for engine in engines}
    all_shares = sum(TARGETS[name].share for name in targets)
    jobs = []
    for name in targets:
        # a child that is started anew for every second input leaves coverage nothing to follow
        mine = {
            engine: share for engine, share in shares.items() if engine != "atheris" or not TARGETS[name].uses_child
        }
        own = seconds * TARGETS[name].share / all_shares
        jobs += [Job(target=name, engine=e, seconds=own * share / sum(mine.values())) for e, share in mine.items()]
    return jobs


def work(job: Job, folder: Path, seed: int) -> dict[str, Any]:
    """Run one worker to its end; its account. A worker that dies is a fault of the input that it was reading."""
    output = folder / job.target / f"{job.engine}.json"
    output.parent.mkdir(exist_ok=True)
    command = [sys.executable, str(HERE / "worker.py"), job.target, job.engine, "--seconds", f"{job.seconds:.1f}",
               "--seed", str(seed), "--output", str(output)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    end = _run(command, environment, job.seconds + _PATIENCE_SECONDS)
    account: dict[str, Any] = {"num_inputs": 0, "slowest_ms": 0.0, "slowest_bytes": 0, "faults": []}
    if output.is_file():
        account = json.loads(output.read_text(encoding="utf-8"))
    if end:
        account["faults"].append({"fault": end.partition("\n")[0], "story": end, "times": 1,
                                  "file": _input_at_work(output, job)})  # fmt: skip
    for fault in account["faults"]:
        print(f"{job.target} ({job.engine}): {fault['fault']}, {fault['times']} times, {fault.get('file')}", flush=True)
        print("    " + fault["story"].strip().replace("\n", "\n    ")[-1500:], flush=True)
        if (kept := output.with_name(str(fault.get("file")))).is_file():
            shutil.copy(kept, FOUND / kept.name)
    rate = account["num_inputs"] / job.seconds
    print(f"{job.target:18} {job.engine:11} {account['num_inputs']:9,} inputs, {rate:6,.0f} a second, slowest "
          f"{account['slowest_ms']:.0f} ms", flush=True)  # fmt: skip
    if account["slowest_ms"] > 500 and (slow := output.with_name(f"{job.target}-slowest.input")).is_file():
        shutil.copy(slow, FOUND / f"{job.target}-{job.engine}-slow.input")
    return account


def _run(command: list[str], environment: dict[str, str], seconds: float) -> str:
    """How the worker ended, where it did not end well."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"the worker did not end within {seconds:.0f} s"
    if done.returncode == 0:
        return ""
    how = f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"ended with code {done.returncode}"
    return f"the worker {how}\n{done.stderr[-3000:]}"


def _input_at_work(output: Path, job: Job) -> str | None:
    note = Path(f"{output}.input")
    if not note.is_file():
        return None
    content = note.read_bytes()
    kept = output.with_name(f"{job.target}-{job.engine}-last.input")
    kept.write_bytes(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return kept.name


def collect(jobs: list[Job], accounts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The accounts by target."""
    found: dict[str, dict[str, Any]] = {}
    for job, account in zip(jobs, accounts, strict=True):
        mine = found.setdefault(job.target, {"reads": TARGETS[job.target].reads, "inputs": 0, "by_engine": {},
                                             "seconds": 0.0, "slowest_ms": 0.0, "faults": []})  # fmt: skip
        mine["inputs"] += account["num_inputs"]
        mine["by_engine"][job.engine] = account["num_inputs"]
        mine["seconds"] = round(mine["seconds"] + job.seconds, 1)
        mine["slowest_ms"] = max(mine["slowest_ms"], account["slowest_ms"])
        mine["faults"] += [{"fault": fault["fault"], "times": fault["times"]} for fault in account["faults"]]
    return found


def document(by_target: dict[str, Any], seed: int, engines: list[str]) -> dict[str, Any]:
    """The content of benchmarks/results/fuzz.json."""
    tools = {}
    for name in ("hypothesis", "atheris", "pyyaml", "pydantic", "jinja2", "gguf", "safetensors", "pyarrow"):
        try:
            tools[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "tools": tools,
        "seed": seed,
        "engines": engines,
        "num_inputs": sum(each["inputs"] for each in by_target.values()),
        "num_faults": sum(len(each["faults"]) for each in by_target.values()),
        "targets": by_target,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="wall time of the whole, start-up aside")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", action="append", choices=sorted(TARGETS), help="a target; may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
