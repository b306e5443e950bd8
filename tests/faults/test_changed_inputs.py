"""What a run takes in is changed before it is continued: refused with every difference, or accepted and recorded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forked_runs import Ended, ForkedRuns
from safetensors.numpy import load_file, save_file
from workplace import Workplace, environment_of, rows, write_rows

from whet.checkpoint.manifest import write_manifest
from whet.checkpoint.names import list_steps

pytestmark = pytest.mark.fault

DONE, TOTAL_STEPS = 6, 8
TORCH = "altered_programs:other_torch"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def edit_row(folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().replace("It is 2.", "It is 3."), encoding="utf-8")


def add_rows(folder: Path) -> None:
    more = [{"question": f"What is {n} minus 1?", "answer": f"It is {n - 1}."} for n in range(90, 94)]
    write_rows(folder / "rows.jsonl", rows() + more)


def reorder_rows(folder: Path) -> None:
    write_rows(folder / "rows.jsonl", rows()[::-1])


def lose_rows(folder: Path) -> None:
    write_rows(folder / "rows.jsonl", rows()[:18])


def edit_tokenizer(folder: Path) -> None:
    edit_json(folder / "model" / "tokenizer_config.json", clean_up_tokenization_spaces=True)


def edit_template(folder: Path) -> None:
    path = folder / "model" / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_start|>", "<|im_start|> "), encoding="utf-8")


def edit_base(folder: Path) -> None:
    weights = load_file(folder / "model" / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})


def edit_plan(folder: Path) -> None:
    """As if another machine had begun the run, which chose bfloat16."""
    checkpoint = folder / "run" / f"checkpoint-{DONE}"
    edit_json(checkpoint / "run_plan.json", compute_dtype="bfloat16")
    write_manifest(checkpoint, step=DONE)


def nothing(_folder: Path) -> None:
    pass


HASHES = r"[0-9a-f]{12} -> [0-9a-f]{12}"
CHANGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str, str]] = {
    "a setting of the recipe": (nothing, ("optim.lr=0.001",), "", r"optim\.lr: 0\.005 -> 0\.001"),
    "the length of the run": (nothing, ("train.epochs=3",), "", r"train\.epochs: 2\.0 -> 3\.0"),
    "a row of the data": (edit_row, (), "", rf"data file rows\.jsonl: {HASHES}"),
    "rows added": (add_rows, (), "", rf"data file rows\.jsonl: {HASHES}"),
    "rows in another order": (reorder_rows, (), "", rf"data file rows\.jsonl: {HASHES}"),
    "a tokenizer file": (edit_tokenizer, (), "", rf"model file tokenizer_config\.json: {HASHES}"),
    "the chat template": (edit_template, (), "", rf"model file chat_template\.jinja: {HASHES}"),
    "the base weights": (edit_base, (), "", rf"base weights: {HASHES}"),
    "the version of torch": (nothing, (), TORCH, r"version of torch: '.*' -> '1\.0'"),
    "the plan": (edit_plan, (), "", r"plan compute_dtype: 'bfloat16' -> 'float32'"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, forked: ForkedRuns) -> Path:
    """A folder with rows, model, recipe (all by relative names) and a run as it was after step 6 of 8."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(tiny_model, folder / "model")
    write_rows(folder / "rows.jsonl", rows())
    place = Workplace(folder=folder, model=Path("model"), rows=Path("rows.jsonl"), environment=environment_of(folder))
    place.write_recipe(output="run", model={"id": "./model"}, data={"train": [{"source": "rows.jsonl"}]})
    ended = forked.run("train", "recipe.yaml", folder=folder, environment=place.environment, learn=True)
    assert ended.code == 0, ended.said
    for path in [
        *(folder / "run").glob("adapter_*"),
        *(folder / "run").glob("*ma*y.json"),
        folder / "run/manifest.json",
    ]:
        path.unlink()
    for step in (7, 8):
        shutil.rmtree(folder / "run" / f"checkpoint-{step}")
    return folder


def go_on(forked: ForkedRuns, folder: Path, *arguments: str, program: str = "") -> Ended:
    return forked.run(
        "train", "recipe.yaml", *arguments, folder=folder, environment=environment_of(folder),
        **({"program": program} if program else {}),
    )  # fmt: skip


def contents(run: Path) -> dict[str, bytes]:
    """All that a refusal must leave alone."""
    left_out = ("ranks", ".lock")
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.relative_to(run).parts[0] not in left_out
    }


def was_refused(ended: Ended, line: str) -> bool:
    return (
        ended.code == 2
        and re.search(rf"(?m)^  {line}", ended.said) is not None
        and "--accept-changes" in ended.said
        and "--fresh" in ended.said
        and "Traceback" not in ended.said
    )


def was_recorded(run: Path, line: str) -> bool:
    """In every later checkpoint, in inputs.json, as an incident, in the report."""
    newest = list_steps(run)[0]
    documents = [json.loads((run / name / "inputs.json").read_text()) for name in (f"checkpoint-{newest}", ".")]
    incidents = [json.loads(each) for each in (run / "incidents.jsonl").read_text().splitlines()]
    told = [each for each in incidents if each["kind"] == "accepted_changes"]
    return (
        all(document["accepted"][0]["after_step"] == DONE for document in documents)
        and all(re.match(line, document["accepted"][0]["changes"][0]) for document in documents)
        and len(told) == 1
        and re.match(line, told[0]["facts"]["changes"][0]) is not None
        and "accepted changes" in (run / "report.html").read_text(encoding="utf-8")
    )


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_refused_with_the_difference_and_accepted_only_on_request(
    stopped: Path, tmp_path: Path, forked: ForkedRuns, outcome, name: str
):
    change, arguments, program, line = CHANGES[name]
    folder = shutil.copytree(stopped, tmp_path / "place")
    change(folder)
    run, before = folder / "run", contents(folder / "run")
    refused = go_on(forked, folder, *arguments, program=program)
    is_untouched = contents(run) == before
    accepted = go_on(forked, folder, *arguments, "--resume", "auto", "--accept-changes", program=program)
    steps = [json.loads(each) for each in (run / "metrics.jsonl").read_text().splitlines()]
    total = 12 if name == "the length of the run" else TOTAL_STEPS
    went_on = (
        accepted.code == 0
        and "accepted: " in accepted.said
        and [each["step"] for each in steps if each["kind"] == "step"] == list(range(1, total + 1))
    )
    held = was_refused(refused, line) and is_untouched and went_on and was_recorded(run, line)
    outcome(
        fault="an input changed before the run is continued",
        group="changes",
        tries=1,
        held=int(held),
        lost="nothing",
        note="refused with the difference (exit 2); with --accept-changes recorded in checkpoints and report",
    )
    assert was_refused(refused, line), refused.said
    assert is_untouched
    assert went_on, accepted.said
    assert was_recorded(run, line), (run / "inputs.json").read_text()


NEVER = {
    "adapter.rank=8": "the saved weights are of an adapter of another form",
    "optim.name=adamw_8bit": "the saved optimizer state is of another kind",
}


@pytest.mark.timeout(1500)
def test_what_no_checkpoint_can_be_continued_with_is_refused_also_on_request(
    stopped: Path, tmp_path: Path, forked: ForkedRuns, outcome
):
    folder = shutil.copytree(stopped, tmp_path / "place")
    before, held, tries = contents(folder / "run"), 0, len(NEVER) + 1
    for argument, reason in NEVER.items():
        ended = go_on(forked, folder, argument, "--accept-changes")
        held += ended.code == 2 and f"({reason})" in ended.said and contents(folder / "run") == before
    lose_rows(folder)
    ended = go_on(forked, folder, "--accept-changes", "train.epochs=1")
    held += ended.code == 2 and "the run ends after step 3, and the checkpoint is of step 6" in ended.said
    outcome(
        fault="a change with which no run can be continued",
        group="changes",
        tries=tries,
        held=held,
        note="refused with the reason (exit 2), also with --accept-changes",
    )
    assert held == tries, ended.said


@pytest.mark.timeout(1500)
def test_several_changes_are_told_at_once_and_what_was_accepted_before_stays_told(
    stopped: Path, tmp_path: Path, forked: ForkedRuns
):
    folder = shutil.copytree(stopped, tmp_path / "place")
    edit_row(folder)
    ended = go_on(forked, folder, "--accept-changes")
    assert ended.code == 0, ended.said
    for path in [folder / "run" / "summary.json", *(folder / "run").glob("checkpoint-8")]:
        path.unlink() if path.is_file() else shutil.rmtree(path)
    edit_row(folder)
    add_rows(folder)
    edit_tokenizer(folder)
    refused = go_on(forked, folder)
    assert was_refused(refused, CHANGES["rows added"][3]) and was_refused(refused, CHANGES["a tokenizer file"][3])
    ended = go_on(forked, folder, "--accept-changes")
    assert ended.code == 0, ended.said
    accepted = json.loads((folder / "run" / "inputs.json").read_text())["accepted"]
    assert [each["after_step"] for each in accepted] == [DONE, 7]
    assert [len(each["changes"]) for each in accepted] == [2, 4]
