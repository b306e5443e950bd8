"""Another program is watched, its progress shown, its failure told by its kind; nothing secret is kept."""

import sys
import time

import pytest

from whet.errors import HubError, OutOfMemoryError, RecipeError, StorageError, WhetError
from whet.evaluation.standard.tool_process import interpreter_versions, run_tool


def run(tmp_path, code: str, **options) -> list[tuple[str, int, int]]:
    told = []
    run_tool(
        [sys.executable, "-c", code], name="a tool", log=tmp_path / "log", what="sums: base",
        progress=lambda *figures: told.append(figures), **options,
    )  # fmt: skip
    return told


def test_progress_bars_become_progress_and_the_rest_goes_to_the_log(tmp_path):
    code = (
        "import sys\nprint('reading rows')\n"
        "for n in range(3): sys.stderr.write(f'\\rRunning requests:  {n * 50}%|##   | {n}/2 [00:00<00:00,  5.1it/s]')\n"
        "sys.stderr.write('\\n  50%|#####     | 3/6 [00:00<?, ?it/s]\\rdone 100%\\n')"
    )
    told = run(tmp_path, code)
    assert told == [*((("sums: base: Running requests"), n, 2) for n in range(3)), ("sums: base", 3, 6)]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "reading rows\ndone 100%\n"


@pytest.mark.parametrize(
    ("last_words", "kind", "exit_code"),
    [
        ("ValueError: Tasks not found: gsm9k", RecipeError, 2),
        ("huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach the hub", HubError, 6),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB", OutOfMemoryError, 9),
        ("OSError: [Errno 28] No space left on device", StorageError, 5),
        ("KeyError: 'answer'", WhetError, 1),
    ],
)
def test_a_failure_is_told_with_the_last_lines_and_by_its_kind(tmp_path, last_words, kind, exit_code):
    with pytest.raises(WhetError) as caught:
        run(tmp_path, f"import sys\nprint('loading')\nprint({last_words!r}, file=sys.stderr)\nsys.exit(3)")
    assert type(caught.value) is kind
    assert caught.value.exit_code == exit_code
    assert last_words in str(caught.value) and "exit status 3" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)


def test_a_kind_in_the_last_line_comes_before_one_in_the_lines_above(tmp_path):
    with pytest.raises(HubError):
        run(tmp_path, "print('MemoryError is not it')\nraise ConnectionError('no route')")


def test_a_program_that_the_kernel_killed_most_likely_had_too_little_memory(tmp_path):
    with pytest.raises(OutOfMemoryError, match="signal 9"):
        run(tmp_path, "import os\nos.kill(os.getpid(), 9)")


def test_a_program_that_is_not_there_is_a_mistake_of_the_command(tmp_path):
    with pytest.raises(RecipeError, match="cannot be started"):
        run_tool(["/no/such/python"], name="a tool", log=tmp_path / "log", what="", progress=lambda *_: None)


def test_secrets_are_neither_logged_nor_shown(tmp_path):
    with pytest.raises(WhetError) as caught:
        run(tmp_path, "print('key=s3cret-key')\nraise SystemExit(1)", secrets=["s3cret-key"])
    assert "s3cret-key" not in str(caught.value) + (tmp_path / "log").read_text(encoding="utf-8")


def test_a_program_ends_with_the_call(tmp_path):
    class Enough(BaseException):
        pass

    def stop(*_):
        raise Enough

    started = time.monotonic()
    with pytest.raises(Enough):
        run_tool(
            [sys.executable, "-c", "import time\nprint('  1%|  | 1/9 [', flush=True)\ntime.sleep(60)"], name="a tool",
            log=tmp_path / "log", what="", progress=stop,
        )  # fmt: skip
    assert time.monotonic() - started < 30


def test_modules_beside_the_call_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise RuntimeError('a stranger')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "import json")
    assert "pytest" in interpreter_versions(sys.executable, ("pytest",), where="", mend="")


def test_versions_are_those_of_the_interpreter_named(tmp_path):
    found = interpreter_versions(sys.executable, ("pytest", "no-such-package"), where="", mend="")
    assert found == {"pytest": pytest.__version__}
    with pytest.raises(RecipeError, match="no Python that can be run"):
        interpreter_versions("/no/such/python", ("pytest",), where="--lm-eval-python", mend="name another")
    with pytest.raises(RecipeError, match="no Python that can be run"):
        interpreter_versions("/bin/false", ("pytest",), where="--lm-eval-python", mend="name another")
