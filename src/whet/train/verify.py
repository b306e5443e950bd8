"""`whet train RECIPE --resume --verify`: before a run goes on, a step that it has made already is made again.

One step is enough where the run went on behind its newest checkpoint before it stopped: that step's batch, rows, loss,
gradient norm, weights and moments were noted (train/witness.py) and must come out again. A run that stopped right at a
checkpoint has no such step: then the steps from the checkpoint before it are made again and must end in its state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from whet.checkpoint.load import Checkpoint
from whet.checkpoint.names import checkpoint_folder, list_steps
from whet.errors import GateError, StorageError
from whet.parallel.reduce import broadcast_text
from whet.train.callbacks import Callback, Callbacks, Requests
from whet.train.laps import Laps
from whet.train.loop import Training, train_step
from whet.train.machine_facts import differences
from whet.train.pace import Pace
from whet.train.prefetch import Prefetch
from whet.train.signals import StopRequest
from whet.train.state import Saver
from whet.train.step_bits import Difference, StepBits, bits_from, bits_of_state, first_difference
from whet.train.together import open_together
from whet.train.witness import KnownSteps, facts_now, read_testimony, witnessed

Say = Callable[[str], None]
_WORDS = ("batch", "rows", "loss", "gradient norm", "weights", "moments")
_CAUSES = {
    "batch_hash": "the rows, their number, their order or the seed are not those of the run",
    "rows": "a data file, the tokenizer or the template was changed under the same row ids",
    "lr": "the length of the run or its schedule was changed",
    "loss": "the base, the weights of the checkpoint, the rows, the dropout seed, the code or the machine is another",
    "grad_norm": "the backward pass adds up in another order: other threads, another processor or another version",
    "weights": "the optimizer's state in the checkpoint, its settings or the code is not that of the run",
    "moments": "the optimizer's state in the checkpoint, its settings or the code is not that of the run",
}


def verify_resume(
    run: Training, saver: Saver, checkpoint: Checkpoint, acting: Sequence[Callback], say: Say
) -> None:  # fmt: skip
    """Make a step again and say that it came out the same; afterwards the state is `checkpoint`'s, as before.

    `acting` are the callbacks that change weights. All ranks call it, with `checkpoint` restored. GateError names what
    differs first, and what of machine, versions and threads is not as it was.
    """
    known = _known(saver.run_folder, checkpoint.step, is_main=run.env.is_main)
    # the account of the run's time and pace is not for these steps
    quiet = replace(
        run, callbacks=Callbacks(acting), laps=Laps(run.device), pace=Pace(run.env.rank, run.env.world_size)
    )
    if checkpoint.step + 1 in known.steps:
        sentence = _redo(quiet, saver, checkpoint, known, first=checkpoint.step, last=checkpoint.step + 1)
    elif (older := _checkpoint_before(run, saver.run_folder, checkpoint.step)) is not None:
        sentence = _arrive(quiet, saver, older, checkpoint, known)
    else:
        say(
            f"--verify: nothing to compare with: the run stopped right at {checkpoint.folder.name}, and no whole "
            "checkpoint before it is kept (train.keep)"
        )
        return
    saver.restore(checkpoint)
    say(f"verified: {sentence}")


def _known(run_folder: Path, step: int, *, is_main: bool) -> KnownSteps:
    """What rank 0 knows of the steps around 1-based `step`, on all ranks."""
    told = None
    if is_main:
        whole = read_testimony(run_folder)
        told = json.dumps({"steps": [asdict(each) for each in whole.steps.values()], "sessions": whole.sessions})
    heard = json.loads(broadcast_text(told))
    steps = [bits for each in heard["steps"] if (bits := bits_from(each)) is not None]
    return KnownSteps(
        steps={bits.step: bits for bits in steps if bits.step <= step + 1},
        sessions=[(int(first), facts) for first, facts in heard["sessions"]],
    )


def _checkpoint_before(run: Training, run_folder: Path, step: int) -> Checkpoint | None:
    """The newest whole one before `step`; all ranks call it."""
    told = json.dumps([each for each in list_steps(run_folder) if each < step]) if run.env.is_main else None
    for older in json.loads(broadcast_text(told)):
        try:
            return open_together(checkpoint_folder(run_folder, older), run.env)
        except StorageError:
            continue  # a damaged one proves nothing
    return None


def _redo(
    run: Training, saver: Saver, start: Checkpoint, known: KnownSteps, *, first: int, last: int
) -> str:  # fmt: skip
    """Make 0-based steps `first` to `last` - 1 from `start`; GateError where one is not as it is known."""
    run.callbacks.on_start(run, first)
    compared: set[str] = set()
    with Prefetch(run.rows, range(first, last), run.device) as rows:
        for step in range(first, last):
            record, _ = run.guard.step(run, step, train_step, Requests(), StopRequest(), rows)
            if record is None:
                continue  # all of its samples are quarantined
            now = witnessed(run, record)
            if (then := known.steps.get(step + 1)) is not None:
                _require(run, saver, start, first_difference(then, now), known.facts_of(step + 1))
                compared |= _compared(then)
            run.callbacks.after_step(record)
    which = f"step {last}" if last == first + 1 else f"steps {first + 1} to {last}"
    what = f"the same {', '.join(name for name in _WORDS if name in compared)}, bit for bit" if compared else "a state"
    return f"{which} made again from {start.folder.name} gave {what}"


def _arrive(run: Training, saver: Saver, older: Checkpoint, newest: Checkpoint, known: KnownSteps) -> str:
    """Make the steps between two checkpoints again; GateError where they do not end in the newer one's state."""
    expected = bits_of_state(run)
    saver.restore(older)
    sentence = _redo(run, saver, older, known, first=older.step, last=newest.step)
    for name, then, now in zip(("weights", "moments"), expected, bits_of_state(run), strict=True):
        if then != now:
            found = Difference(step=newest.step, name=name, then=then, now=now)
            _require(run, saver, older, found, known.facts_of(newest.step))
    return f"{sentence}, and the weights and moments of {newest.folder.name}"


def _compared(then: StepBits) -> set[str]:
    """What is known of a step, in words."""
    known = {"batch", "loss", "gradient norm"}
    return known | {name for name in ("rows", "weights", "moments") if getattr(then, name)}


def _require(
    run: Training, saver: Saver, start: Checkpoint, found: Difference | None, facts: Mapping[str, Any]
) -> None:  # fmt: skip
    """GateError for a difference, with what could have made it."""
    if found is None:
        return
    changed = differences(facts, facts_now(run))
    if changed:
        cause = f"what is not as it was: {'; '.join(changed)}"
    else:
        known = "machine, versions and threads are as they were, so " if facts else ""
        cause = f"{known}{_CAUSES[found.name]}"
    raise GateError(
        f"made again from {start.folder.name}, {found.sentence}\n  likely cause: {cause}",
        where=str(saver.run_folder),
        mend="put back what was changed and give the same command again; or go on without --verify, if a run that "
        "differs in its last bits will do; or start anew with --fresh",
    )
