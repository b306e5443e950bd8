"""Runs every code block of README.md and docs/ and every notebook: `make docs-test`.

The blocks of a page run in their order in one shell, in a folder of their own (tests/support/doc_world.py), after
`tests/docs/preambles/PAGE.sh` where there is one: it makes the files that the page takes for granted. The text that
runs is the text of the page. At the end stands what became of the blocks. Exit code 1 if one failed.

    python tests/docs/run.py --only docs/commands.md     one page
    python tests/docs/run.py --only notebooks            the notebooks alone
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from doc_blocks import Block, blocks_of, pages  # noqa: E402
from doc_notebooks import NOTEBOOKS, run_notebook  # noqa: E402
from doc_world import STAND_INS, make_world, write_tiny_model  # noqa: E402

PREAMBLES = Path(__file__).with_name("preambles")
REAL_MODEL = ("README.md", "docs/start.md")
"""pages whose commands run on the built-in model; the others on a tiny random one"""
MARK = "@@ block "
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one page or notebook."""

    name: str
    seconds: float
    fault: str = ""
    """empty when all went well; else what failed, and the end of what was said"""


def script_of(page: str, blocks: list[Block]) -> str:
    """The page as one shell script: a mark before each block tells where it stopped."""
    lines = ["set -euo pipefail", f"source {shlex.quote(str(PREAMBLES / 'common.sh'))}"]
    preamble = PREAMBLES / f"{slug(page)}.sh"
    if preamble.is_file():
        lines.append(f"source {shlex.quote(str(preamble))}")
    for block in blocks:
        lines.append(f"echo {shlex.quote(MARK + block.where)}")
        if block.fate == "file":
            lines.append(heredoc(f"cat > {shlex.quote(block.directives['file'])}", block.text))
        elif block.language == "python":
            lines.append(heredoc("python -", block.text))
        elif code := block.directives.get("exit"):
            lines += ["set +e", f"(\n{block.text})", f"[[ $? == {int(code)} ]] || exit 1", "set -e"]
        else:
            lines.append(block.text)
    return "\n".join([*lines, f"echo {shlex.quote(MARK + 'end')}"]) + "\n"


def slug(page: str) -> str:
    """docs/commands.md -> docs-commands"""
    return page.removesuffix(".md").replace("/", "-")


def heredoc(command: str, text: str) -> str:
    return f"{command} <<'END_OF_BLOCK'\n{text}END_OF_BLOCK"


def run_page(page: str, tiny_model: Path, folder: Path) -> Outcome:
    """All blocks of `page` that run, in `folder`."""
    started = time.monotonic()
    blocks = [block for block in blocks_of(page) if block.fate in ("runs", "file")]
    environment = make_world(folder, tiny_model, is_real_model=page in REAL_MODEL)
    script = folder / "page.sh"
    script.write_text(script_of(page, blocks), encoding="utf-8")
    log = folder / "page.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            ["bash", str(script)], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | str = process.wait(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            code = f"no end after {TIMEOUT_SECONDS} s"
        finally:
            end_session(process)
    said = log.read_text(encoding="utf-8", errors="replace")
    marks = [line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)]
    seconds = time.monotonic() - started
    if code == 0 and marks[-1:] == ["end"]:
        return Outcome(name=page, seconds=seconds)
    where = marks[-1] if marks else f"preamble of {page}"
    return Outcome(name=page, seconds=seconds, fault=f"{where}: exit {code}\n{said[-4000:]}")


def run_one_notebook(name: str, folder: Path) -> Outcome:
    """A notebook, from its first cell to its last."""
    started = time.monotonic()
    folder.mkdir()
    fault = run_notebook(name, folder)
    return Outcome(name=name, seconds=time.monotonic() - started, fault=fault)


def told(outcome: Outcome) -> Outcome:
    print(f"{'FAILED' if outcome.fault else 'ok':6} {outcome.seconds:5.0f} s  {outcome.name}", flush=True)
    if outcome.fault:
        print(outcome.fault, flush=True)
    return outcome


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End what the page left running (a server), and wait for the shell."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tell_fates(names: list[str]) -> None:
    """How many blocks had which fate, and every skip with its reason."""
    blocks = [block for name in names for block in blocks_of(name)]
    counts = Counter(block.fate or "WITHOUT A FATE" for block in blocks)
    print(f"{len(blocks)} blocks: " + ", ".join(f"{count} {fate}" for fate, count in counts.most_common()))
    skipped = [block for block in blocks if block.fate == "skipped"]
    for block in skipped:
        print(f"  not run: {block.where}: {block.directives['skip']}")
    print(f"stand-ins that only print what they are asked for: {', '.join(STAND_INS)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PAGE|NOTEBOOK")
    chosen = parser.parse_args().only
    names = [page for page in pages() if not chosen or page in chosen]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="whet-docs-") as scratch:
        tiny_model = write_tiny_model(Path(scratch) / "tiny")
        for page in names:
            if any(block.fate in ("runs", "file") for block in blocks_of(page)):
                outcomes.append(told(run_page(page, tiny_model, Path(scratch) / slug(page))))
        for name in NOTEBOOKS:
            if not chosen or {name, "notebooks"} & set(chosen):
                outcomes.append(told(run_one_notebook(name, Path(scratch) / Path(name).stem)))
    tell_fates(names)
    num_failed = sum(bool(outcome.fault) for outcome in outcomes)
    print(f"{len(outcomes)} run in {sum(o.seconds for o in outcomes) / 60:.1f} minutes, {num_failed} failed")
    sys.exit(1 if num_failed else 0)


if __name__ == "__main__":
    main()
