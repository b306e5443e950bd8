"""Odd surroundings: streams closed, the terminal gone, no home, few files, names of all kinds, no network, no GPU."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import resource
import shutil
import signal
import stat
import subprocess
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from workplace import Workplace

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1200)]

UNTOUCHED = "final SHA-256 as undisturbed"
SECONDS = 600.0
CLONE_NEWNET = 0x40000000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


@pytest.fixture
def environment_outcome(outcome) -> Callable[..., None]:
    """One try of a fault of this group, asserted."""

    def tell(fault: str, held: bool, said: str = "", note: str = "") -> None:
        outcome(fault=fault, group="environment", tries=1, held=int(held), note=note)
        assert held, said

    return tell


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    monkeypatch.setattr("workplace.TIMEOUT_SECONDS", SECONDS)


def others_may_write(folder: Path) -> list[str]:
    return [path.name for path in [folder, *folder.rglob("*")] if path.stat().st_mode & stat.S_IWOTH]


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """The rights of all files and of all folders."""
    kinds: tuple[set[int], set[int]] = (set(), set())
    for path in [folder, *folder.rglob("*")]:
        kinds[path.is_dir()].add(stat.S_IMODE(path.stat().st_mode))
    return kinds


def test_without_home_on_a_latin_terminal_with_umask_0_and_an_odd_folder_name(workplace, environment_outcome):
    del workplace.environment["HOME"], workplace.environment["WHET_CACHE"]
    odd = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "latin-1", "TMPDIR": str(workplace.folder)}
    workplace.environment |= odd
    name = "\u00dcbung mit Leerzeichen \u7df4\u7fd2"
    workplace.write_recipe(output=str(workplace.folder / name), name=name)
    said = workplace.train("train.max_steps=2", umask=0, encoding="latin-1")
    run = workplace.folder / name
    held = "\u00dcbung mit Leerzeichen \\u7df4\\u7fd2" in said and "step 2/2" in said
    held = held and "\x1b" not in said and "\r" not in said and (run / "adapter_model.safetensors").is_file()
    held = held and others_may_write(run) == [] and modes(run) == ({0o664}, {0o775})
    environment_outcome(
        "HOME unset, C locale, latin-1 terminal, umask 0", held, f"{said}\n{modes(run)}", "files 0664, nobody else's"
    )


def test_a_name_that_the_file_system_encoding_lacks_is_refused_with_what_helps(workplace, environment_outcome):
    workplace.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    workplace.write_recipe(output="\u00dcbung")
    said = workplace.train(expect=5)
    held = "PYTHONUTF8=1" in said and "Traceback" not in said
    environment_outcome("a folder name that the locale cannot write", held, said, "exit 5, PYTHONUTF8=1 is named")


def test_when_the_reader_goes_away_the_run_goes_on(workplace, uninterrupted, environment_outcome):
    """As in `whet train recipe.yaml 2>&1 | head -1`."""
    process = workplace.start("train", str(workplace.recipe))
    assert process.stdout.readline()
    process.stdout.close()
    held = process.wait(timeout=SECONDS) == 0 and workplace.hashes() == uninterrupted.hashes
    environment_outcome("the reader of the output goes away (| head -1)", held, note=UNTOUCHED)


def test_a_full_log_disk_stops_nothing_and_a_private_umask_is_kept(workplace, uninterrupted, environment_outcome):
    with Path("/dev/full").open("w") as full:
        workplace.train(stdout=full, stderr=full, umask=0o077)
    held = workplace.hashes() == uninterrupted.hashes and modes(workplace.folder / "run") == ({0o600}, {0o700})
    environment_outcome("standard output and error on a full disk, umask 077", held, note=f"{UNTOUCHED}; files 0600")


def test_closed_standard_streams_harm_no_file(workplace, uninterrupted, environment_outcome):
    """As in `whet train recipe.yaml <&- >&- 2>&-`: a checkpoint could become file number 1."""
    workplace.train(stdout=None, stderr=None, preexec_fn=partial(os.closerange, 0, 3), umask=0o022)
    held = workplace.hashes() == uninterrupted.hashes and modes(workplace.folder / "run") == ({0o644}, {0o755})
    environment_outcome("standard input, output and error closed", held, note=f"{UNTOUCHED}; umask 022: files 0644")


def on_a_terminal_that_goes_away(workplace: Workplace, step: int, *, is_nohup: bool) -> int:
    """`whet train` on a terminal of its own, which is closed at `step`; the exit code."""
    ours, theirs = pty.openpty()

    def become_its_own_session() -> None:
        if is_nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = workplace.start(
        "train", str(workplace.recipe), stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=become_its_own_session
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    deadline = time.monotonic() + SECONDS
    while workplace.last_step() < step:
        assert process.poll() is None and time.monotonic() < deadline
        try:
            os.read(ours, 1 << 16)  # a terminal that nobody reads from stops its writers
        except BlockingIOError:
            time.sleep(0.001)
    os.close(ours)
    return process.wait(timeout=SECONDS)


def test_when_the_terminal_goes_away_the_step_is_saved_and_the_run_continues_later(
    workplace, uninterrupted, environment_outcome
):
    code = on_a_terminal_that_goes_away(workplace, 2, is_nohup=False)
    saved = workplace.last_step()
    said = workplace.train()
    held = code == 75 and saved < 8 and workplace.hashes() == uninterrupted.hashes
    note = "the step is saved, exit 75; continued: " + UNTOUCHED
    environment_outcome("the terminal goes away (SIGHUP)", held, f"{code} {saved}\n{said}", note)


def test_under_nohup_the_run_outlives_its_terminal(workplace, uninterrupted, environment_outcome):
    code = on_a_terminal_that_goes_away(workplace, 2, is_nohup=True)
    held = code == 0 and workplace.hashes() == uninterrupted.hashes
    environment_outcome("the terminal goes away under nohup", held, str(code), UNTOUCHED)


def children_of(process_id: int) -> list[int]:
    """Its threads' children."""
    found: list[int] = []
    for path in Path(f"/proc/{process_id}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue
    return found


def test_a_killed_child_process_is_an_error_at_once_and_never_a_hang(workplace, environment_outcome):
    """The one child of a run renders chat templates."""
    process = workplace.start("train", str(workplace.recipe), "train.max_steps=2")
    most, num_killed, deadline = 0, 0, time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        children = children_of(process.pid)
        most = max(most, len(children))
        for child in children:
            try:
                if b"sandbox_child" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)
                    num_killed += 1
            except (ProcessLookupError, FileNotFoundError):
                continue
        time.sleep(0.001)
    said, _ = process.communicate(timeout=SECONDS)
    is_told = process.returncode in (1, 2) and "the process that renders" in said and "Traceback" not in said
    workplace.train("train.max_steps=2")
    held = (is_told or process.returncode == 0) and num_killed > 0 and most <= 2
    note = "told at once, nothing half-written; the same command then works"
    environment_outcome("the child process that renders chat templates is killed", held, said, note)


def test_a_name_of_255_bytes_with_a_dash_quotes_and_letters_of_the_world(workplace, environment_outcome):
    odd = "-rf ' \" \u7df4$(touch x)"
    name = odd + "x" * (255 - len(odd.encode()))
    rows = workplace.folder / f"{odd}.jsonl"
    shutil.copy(workplace.rows, rows)
    workplace.rows = rows
    workplace.write_recipe(output=str(workplace.folder / name), name="odd")
    said = workplace.train("train.max_steps=2")
    code, refused = workplace.run("train", str(workplace.recipe), "--fresh", "train.max_steps=2")
    run = workplace.folder / name
    held = (run / "adapter_model.safetensors").is_file() and (run / "report.html").is_file()
    held = held and code == 5 and "cannot be moved" in refused and not (workplace.folder / "x").exists()
    too_long = workplace.train(f"output={workplace.folder / (name + 'x')}", expect=5)
    held = held and "File name too long" in too_long
    environment_outcome(
        "names of 255 bytes, a leading dash, quotes, $(...)", held, said + refused + too_long,
        "works; 256 bytes: exit 5",
    )  # fmt: skip


def test_the_folder_of_the_call_is_removed_before_and_during_a_run(workplace, uninterrupted, environment_outcome):
    here = workplace.folder / "here"
    here.mkdir()
    process = workplace.train_until(lambda: workplace.last_step() >= 2, cwd=here)
    here.rmdir()
    process.communicate(timeout=SECONDS)
    is_finished = process.returncode == 0 and workplace.hashes() == uninterrupted.hashes
    here.mkdir()
    code, said = workplace.run("train", str(workplace.recipe), cwd=here, preexec_fn=here.rmdir)
    held = is_finished and code == 2 and "has been removed" in said and "Traceback" not in said
    environment_outcome(
        "the folder of the call is removed", held, said, f"during the run: {UNTOUCHED}; before it: exit 2"
    )


@needs_root
def test_a_home_that_cannot_be_written_and_no_temporary_folder(workplace, uninterrupted, environment_outcome):
    home = workplace.folder / "home"
    home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs root to mount a small disk")
    own_cache = workplace.environment.pop("WHET_CACHE")
    workplace.environment |= {"HOME": str(home), "TMPDIR": str(home / "none")}
    try:
        refused = workplace.train(expect=5)
        workplace.environment["WHET_CACHE"] = own_cache
        said = workplace.train()
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)
    held = "set WHET_CACHE to a folder that you can write" in refused and workplace.hashes() == uninterrupted.hashes
    note = f"exit 5 names WHET_CACHE; with it: {UNTOUCHED}"
    environment_outcome("HOME read-only, TMPDIR missing", held, refused + said, note)


def test_few_open_files_are_enough_and_too_few_are_refused(workplace, uninterrupted, environment_outcome):
    def may_open(num_files: int) -> Callable[[], None]:
        return partial(resource.setrlimit, resource.RLIMIT_NOFILE, (num_files, num_files))

    said = workplace.train(preexec_fn=may_open(64))
    refused = workplace.train(expect=2, preexec_fn=may_open(24))
    held = workplace.hashes() == uninterrupted.hashes and "ulimit -n" in refused and "Traceback" not in refused
    environment_outcome("ulimit -n 64 and 24", held, said + refused, f"64: {UNTOUCHED}; 24: exit 2 at once")


def test_a_gpu_that_is_not_there_is_no_silent_cpu_run(workplace, environment_outcome):
    workplace.environment["CUDA_VISIBLE_DEVICES"] = ""
    said = workplace.train("train.device=cuda", expect=2)
    held = "finds no working CUDA device" in said and "train.device=cpu" in said and not workplace.steps()
    environment_outcome("device: cuda without a GPU", held, said, "exit 2 with what to write instead")


def without_network() -> None:
    """A network of its own, with nothing in it, not even a loopback that works."""
    ctypes.CDLL(None).unshare(CLONE_NEWNET)


@needs_root
def test_everything_but_download_works_without_a_network(workplace, environment_outcome):
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("network namespaces may not be made here")
    del workplace.environment["HF_HUB_OFFLINE"]
    rows = str(workplace.rows)
    held_out = {"name": "held-out", "source": {"source": rows, "split": "train[20:]", "rows": 4}, "max_new_tokens": 4}
    workplace.write_recipe(data={"train": [{"source": rows, "split": "train[:20]"}]}, evaluate=[held_out])
    run = str(workplace.folder / "run")
    told = []
    for command in (
        ("train", str(workplace.recipe), "train.max_steps=2"),
        ("evaluate", run),
        ("report", run),
        ("export", run, "--to", "adapter", "--output", str(workplace.folder / "out")),
    ):
        process = workplace.start(*command, preexec_fn=without_network)
        said, _ = process.communicate(timeout=SECONDS)
        told.append((process.returncode, said))
    held = [code for code, _ in told] == [0] * 4 and (workplace.folder / "out").is_dir()
    environment_outcome("no network at all", held, str(told), "train, evaluate, report and export work")
