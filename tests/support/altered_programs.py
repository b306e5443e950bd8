"""The command line with one thing altered, for tests that start it by name: `altered_programs:FUNCTION`.

What is altered is the surroundings (a version, a clock) or a place where a test wants a failure or a signal; each
function then goes through `whet.cli.main.main` to the exit code.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from whet.cli.main import main

DAY_SECONDS = 86_400.0
SIGNALS = "WHET_TEST_SIGNALS"
"""variable with the names of the signals that a program gets, divided by commas"""


def other_torch() -> None:
    """Another version of torch is installed, as far as packages tell."""
    from whet.train import inputs

    real = inputs.version
    inputs.version = lambda package: "1.0" if package == "torch" else real(package)
    main()


def jumping_clock() -> None:
    """The clock of the wall jumps by a day at every look, forward and back in turn."""
    real, looks = time.time, [0]

    def jumping() -> float:
        looks[0] += 1
        return real() + (DAY_SECONDS if looks[0] % 2 else -DAY_SECONDS)

    time.time = jumping
    main()


def comparison_fails() -> None:
    """A bug in what follows training: comparing the answers raises an error that is none of whet's."""
    from whet.evaluation import run

    run.compare = _raising(RuntimeError("a bug of the evaluation"))
    main()


def killed_after_nine_answers() -> None:
    """SIGKILL when nine answers have come."""
    from whet.evaluation import answers

    generate, left = answers.generate, [9]

    def counting(model: Any, prompts: Any, *, on_finished: Callable[[int, int], None], **others: Any) -> Any:
        def finished(index: int, num_finished: int) -> None:
            on_finished(index, num_finished)
            left[0] -= 1
            if left[0] == 0:
                _die()

        return generate(model, prompts, on_finished=finished, **others)

    answers.generate = counting
    main()


def report_fails() -> None:
    """The disk is full when the report is written."""
    from whet import report
    from whet.errors import StorageError

    error = StorageError("could not be written: No space left on device", where="report.html", mend="free some space")
    report.write_report = _raising(error)
    main()


def final_files_fail() -> None:
    """The disk is full when the final weights are written."""
    from whet.train import finish

    finish.write_files = _raising(OSError(errno.ENOSPC, "No space left on device"))
    main()


def killed_at_final_files() -> None:
    """SIGKILL when the final files are written and not yet in their place."""
    from whet.train import finish

    finish._put_in_place = _die
    main()


def killed_at_export() -> None:
    """SIGKILL when an export is written and not yet proved."""
    from whet.export import adapter

    adapter.write_proof = _die
    main()


def signalled_at_the_start() -> None:
    """Signals of WHET_TEST_SIGNALS reach the process when it looks into its run folder."""
    from whet.train import folder

    folder.look = _signalling(folder.look)
    main()


def signalled_while_tokenizing() -> None:
    from whet.data import source_tokens

    source_tokens.tokenize_stream = _signalling(source_tokens.tokenize_stream)
    main()


def signalled_in_the_first_step() -> None:
    from whet.train import loop

    loop._one_pass = _signalling(loop._one_pass)
    main()


def signalled_in_a_checkpoint() -> None:
    """While the thread that writes it is at work: signals reach the one that trains."""
    from whet.checkpoint import save

    save.write_manifest = _signalling(save.write_manifest)
    main()


def signalled_in_an_evaluation() -> None:
    from whet.evaluation import run

    run.compare = _signalling(run.compare)
    main()


def signalled_in_an_export() -> None:
    from whet.export import adapter

    adapter.write_proof = _signalling(adapter.write_proof)
    main()


def _signalling(real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, at whose first call the signals come, one after the other."""
    calls = [0]

    def signalled(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            for name in os.environ[SIGNALS].split(","):
                os.kill(os.getpid(), getattr(signal, name))
                time.sleep(0.3)  # a handler has run before the next one comes: those that wait together may be merged
        return real(*arguments, **named)

    return signalled


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
