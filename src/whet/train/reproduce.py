"""`whet reproduce RUN`: a recorded run made anew from what its folder says, and compared with it step by step.

Before anything is trained: the data files by SHA-256, then rows, base weights and versions. Plan, threads and cuts are
the recorded ones. Equal bits need the same kind of machine, threads, ranks and versions; where these differ, the losses
must agree within one percent and the report says how closely they do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.checkpoint.manifest import NAME as MANIFEST
from whet.errors import DataError, GateError, InterruptedRunError, StorageError
from whet.parallel.place import read_env
from whet.parallel.rank_files import RankFiles
from whet.parallel.reduce import broadcast_text
from whet.recipe import load_recipe
from whet.recipe.schema import Recipe
from whet.train import folder as run_files
from whet.train.callbacks import QuietCallback, Requests
from whet.train.changes import differences as changes_between
from whet.train.incidents import append_incident, read_incidents
from whet.train.inputs import data_files
from whet.train.machine_facts import differences, facts_of
from whet.train.room import KIND as OUT_OF_MEMORY
from whet.train.run import Options, run_recipe
from whet.train.state import INPUTS
from whet.train.step_bits import Difference, bits_of_record, first_difference
from whet.train.witness import KnownSteps, facts_now, read_testimony, witnessed
from whet.types import StepRecord

if TYPE_CHECKING:
    from whet.train.loop import Training

Say = Callable[[str], None]
MOST_RELATIVE = 0.01
"""that a loss may differ by on another machine; rounding makes less of a difference, another batch more"""
_ROUNDING = ("loss", "grad_norm", "weights", "moments")
"""what may differ by rounding alone"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """What the folder of a run says of how it was made."""

    folder: Path
    recipe: Recipe
    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    inputs: Mapping[str, Any]
    """inputs.json; empty for a run of an earlier whet"""
    testimony: KnownSteps
    is_finished: bool

    @property
    def last_step(self) -> int:
        return max(self.testimony.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """How a run that was made anew compares with the recorded one; where it does not agree, there is an error."""

    num_steps: int
    is_bit_for_bit: bool
    """of the steps compared; else within `MOST_RELATIVE` on another machine"""
    largest_difference: float
    """of losses, relative"""
    are_weights_same: bool | None
    """None: the final weights were not compared"""
    sentences: tuple[str, ...]


def read_recorded(folder: Path) -> RecordedRun:
    """StorageError where the folder lacks what a run writes before its second step."""
    testimony = read_testimony(folder)
    if not testimony.steps:
        raise StorageError("holds no step to compare with", where=str(folder), mend="name a run that has trained")
    return RecordedRun(
        folder=folder,
        recipe=load_recipe(folder / run_files.RECIPE),
        plan=_read(folder / "run_plan.json"),
        environment=_read(folder / "environment.json"),
        data=_read(folder / "data.json"),
        model=_read(folder / "model.json"),
        inputs=_read(folder / INPUTS) if (folder / INPUTS).is_file() else {},
        testimony=testimony,
        is_finished=run_files.read_summary(folder).get("status") == "finished",
    )


def reproduce(
    run_folder: Path, output: Path, *, num_steps: int | None, say: Say, files: RankFiles | None = None
) -> Reproduced:  # fmt: skip
    """Make the run of `run_folder` anew in `output`, a new folder, and say how it came out.

    `num_steps`: only so many. GateError where a step or the final weights differ; DataError where a data file was
    changed; StorageError where the base is another one, or `output` is not new. All ranks call it.
    """
    recorded = read_recorded(run_folder)
    _refuse_used(output)
    _refuse_changed_files(recorded)
    for change in recorded.inputs.get("accepted", ()):
        say(
            f"note: after step {change['after_step']} the run was continued with other inputs: steps before will differ"
        )
    world_size = int(recorded.plan.get("world_size", 1))
    if read_env().world_size != world_size:
        say(f"note: the run had {world_size} ranks; for equal bits launch as many (torchrun --nproc-per-node)")
    if read_env().is_main:
        _bring_cuts(recorded, output)
    comparison = Comparison(recorded, output, last_step=_last_step(recorded, num_steps), say=say)
    options = Options(say=say, plan=recorded.plan, callbacks=(comparison,), files=files)
    try:
        run_recipe(_recipe_again(recorded, output), options)
    except _EnoughError:
        return comparison.found(None, "the final weights were not compared")
    if not read_env().is_main:  # rank 0 writes the final files; the others come here before it has
        return comparison.found(None)
    return comparison.found(*comparison.compare_final())


class _EnoughError(InterruptedRunError):
    """All steps that were to be compared are made."""


class Comparison(QuietCallback):
    """Holds every step against the recorded one."""

    name = "reproduce"

    def __init__(self, recorded: RecordedRun, output: Path, *, last_step: int | None, say: Say) -> None:
        self._recorded, self._output, self._last_step, self._say = recorded, output, last_step, say
        self._run: Training | None = None
        self._facts: Mapping[str, Any] = {}
        self._num_compared = 0
        self._first: Difference | None = None
        """where rounding set in on another machine"""
        self._largest = 0.0
        """relative difference of losses"""

    def on_start(self, run: Training, step: int) -> None:
        self._run, self._facts = run, facts_now(run)
        _refuse_other_facts(self._recorded, self._output, is_main=run.env.is_main)
        if changed := self._changed(1):
            self._say(
                f"this is not quite the machine that made the run ({'; '.join(changed)}): where bits differ, losses "
                f"must agree within {MOST_RELATIVE:.0%}"
            )

    def after_step(self, record: StepRecord) -> Requests:
        run, known = self._run, self._recorded.testimony
        assert run is not None, "on_start comes first"
        then = known.steps.get(record.step)
        if then is not None:
            now = witnessed(run, record) if then.weights else bits_of_record(record)
            self._num_compared += 1
            self._largest = max(self._largest, abs(now.loss - then.loss) / max(abs(then.loss), 1e-9))
            if (found := first_difference(then, now)) is not None:
                self._judge(found)
        elif record.step > self._recorded.last_step:
            raise GateError(f"the run ended after step {self._recorded.last_step}, and this one goes on")
        if record.step == self._last_step:
            raise _EnoughError(f"all {self._num_compared} steps are compared")
        return Requests()

    def _changed(self, step: int) -> list[str]:
        """What of the machine that made 1-based `step` is not so here."""
        recorded = self._recorded
        then = recorded.testimony.facts_of(step) or facts_of(recorded.environment, recorded.plan)
        return differences(then, self._facts)

    def _judge(self, found: Difference) -> None:
        """GateError unless the difference can be another machine's rounding."""
        changed = self._changed(found.step)
        is_rounding = bool(changed) or self._first is not None
        if is_rounding and found.name in _ROUNDING and self._largest <= MOST_RELATIVE:
            self._first = self._first or found
            return
        incidents = [each for each in read_incidents(self._recorded.folder) if each.step <= found.step]
        causes = [f"what is not as it was: {'; '.join(changed)}"] if changed else []
        causes += [f"an incident of the run: {each.text}" for each in incidents[:3]]
        hint = "".join(f"\n  likely cause: {cause}" for cause in causes)
        raise GateError(
            f"the run is not reproduced: {found.sentence}{hint}",
            where=str(self._recorded.folder),
            mend=f"whet diff {self._recorded.folder} {self._output} shows what else differs between the two",
        )

    def sentence(self) -> str:
        """How far the two runs agree."""
        steps = f"{self._num_compared} of {self._recorded.plan.get('total_steps', '?')} steps"
        if self._first is None:
            return f"reproduced: {steps} gave the same batches, losses and gradient norms, bit for bit"
        return (
            f"reproduced up to rounding, not bit for bit: {steps} took the same batches, and all losses agree within "
            f"{self._largest:.1e} (relative); first difference: {self._first.sentence}"
        )

    def found(self, are_weights_same: bool | None, *sentences: str) -> Reproduced:
        """What was compared, with `sentences` about the final weights."""
        return Reproduced(
            num_steps=self._num_compared,
            is_bit_for_bit=self._first is None,
            largest_difference=self._largest,
            are_weights_same=are_weights_same,
            sentences=(self.sentence(), *sentences),
        )

    def compare_final(self) -> tuple[bool | None, str]:
        """Whether the final weights are the same (None: cannot be compared), and a sentence about it; GateError where
        they differ although every step was the same."""
        then, now = (_weight_sums(each) for each in (self._recorded.folder, self._output))
        if self._first is not None or not then:
            return None, "the final weights were not compared: after rounding their files cannot be equal"
        if different := [name for name, digest in then.items() if now.get(name) != digest]:
            raise GateError(
                f"every step is the same, but {different[0]} has another SHA-256",
                where=str(self._output),
                mend="the file of the run may have been changed since: whet export checks it",
            )
        sums = ", ".join(f"{name} {digest[:12]}" for name, digest in then.items())
        return True, f"the final weights have the same SHA-256: {sums}"


def _bring_cuts(recorded: RecordedRun, output: Path) -> None:
    """Where memory ran out in the run its passes were cut smaller: the new one cuts them at the same steps."""
    for incident in read_incidents(recorded.folder):
        if incident.kind == OUT_OF_MEMORY:
            output.mkdir(parents=True, exist_ok=True)
            append_incident(output, incident)


def _last_step(recorded: RecordedRun, num_steps: int | None) -> int | None:
    """The step after which there is nothing more to compare; None: the run's own end."""
    if num_steps is None:
        return None if recorded.is_finished else recorded.last_step
    return min(num_steps, recorded.last_step)


def _recipe_again(recorded: RecordedRun, output: Path) -> Recipe:
    """The recorded recipe with the revision and the threads that it came to, without trackers."""
    recipe, revision = recorded.recipe, recorded.model.get("revision")
    threads = recorded.plan.get("num_threads") if recorded.plan.get("device") == "cpu" else recipe.train.threads
    return replace(
        recipe,
        output=str(output),
        tracking=(),
        model=replace(recipe.model, revision=recipe.model.revision or revision),
        train=replace(recipe.train, threads=threads),
    )


def _refuse_used(output: Path) -> None:
    # of several ranks one may have begun
    is_used = read_env().is_main and output.exists() and (not output.is_dir() or any(output.iterdir()))
    if is_used:
        raise StorageError("is not empty", where=str(output), mend="name another folder with --output, or remove it")


def _refuse_changed_files(recorded: RecordedRun) -> None:
    before: Mapping[str, str] = recorded.inputs.get("inputs", {}).get("data files", {})
    changed = changes_between(before, data_files(recorded.recipe, Path.cwd()), prefix="data file ")
    if changed:
        raise DataError(
            "the rows are not those of the run:\n" + "\n".join(f"  {change}" for change in changed),
            where=str(recorded.folder),
            mend="put the files back as they were; relative names begin at the present folder",
        )


def _refuse_other_facts(recorded: RecordedRun, output: Path, *, is_main: bool) -> None:
    """What the new run wrote about rows and base before its first step must be what the recorded one wrote."""
    complaint = ["", ""]
    if is_main:
        data, model = _read(output / "data.json"), _read(output / "model.json")
        for name in ("train", "validation"):
            then, now = (each.get(name, {}).get("fingerprint") for each in (recorded.data, data))
            if then != now:
                complaint = [
                    "rows",
                    f"the {name} rows or their tokens are not those of the run ({then} then, {now} now)",
                ]
        if model.get("weights_sha256") != recorded.model.get("weights_sha256"):
            complaint = ["base", f"the base {model.get('id')} has other weights than the run's"]
    kind, text = json.loads(broadcast_text(json.dumps(complaint) if is_main else None))
    where = str(recorded.folder)
    if kind == "rows":
        raise DataError(text, where=where, mend="put back the rows, the tokenizer and the template of the run")
    if kind == "base":
        raise StorageError(text, where=where, mend="put back the base that the run was trained over")


def _weight_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of the final weight files by name, as the run wrote them down; empty where it has none."""
    path = folder / MANIFEST
    sums: dict[str, str] = _read(path).get("sha256", {}) if path.is_file() else {}
    return {name: digest for name, digest in sums.items() if name.endswith(".safetensors")}


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"cannot be read: {error}", where=str(path), mend="name another run") from error
    if not isinstance(document, dict):
        raise StorageError("is no JSON object", where=str(path), mend="name another run")
    return document
