"""Weights & Biases, MLflow and Trackio: the guides' names, no step twice, no secret; stand-ins, and the libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in_trackers import STAND_INS, put_in_place
from tracked_steps import CHANGED_CURVE, ONE_CURVE, TAGS, drive, go

from whet.tracking import TRACKERS, TrackedRun

GUIDE = {"train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second", "system/memory_bytes"}
GUIDE_EVAL = {"eval/loss", "eval/answer_accuracy"}
NAMES = sorted(STAND_INS)
SUPPORT = Path(__file__).parents[2] / "support"
PACKAGES = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic"), "trackio": ("trackio",)}


@pytest.fixture(params=NAMES)
def service(request, monkeypatch):
    return request.param, put_in_place(monkeypatch, request.param)


def test_numbers_have_the_guide_s_names_and_their_steps(service, tmp_path):
    name, book = service
    go(name, tmp_path, 0, 5)
    told = {number for _, _, numbers in book.rows for number in numbers}
    assert told >= GUIDE | GUIDE_EVAL
    assert "system/gpu_percent" not in told, "this machine has no GPU"
    assert book.curve("train/loss") == {"demo": ONE_CURVE[:5]}
    assert book.curve("eval/answer_accuracy") == {"demo": [(5, 0.05)]}
    assert book.num_open == 0


def test_a_continued_run_is_the_same_run_and_is_told_no_step_twice(service, tmp_path):
    name, book = service
    go(name, tmp_path, 0, 7)
    go(name, tmp_path, 4, 10)
    assert book.curve("train/loss") == {"demo": ONE_CURVE}
    assert book.curve("eval/answer_accuracy") == {"demo": [(5, 0.05), (10, 0.1)]}
    assert len(book.runs) == 1 and book.num_open == 0


def test_a_run_that_goes_back_and_is_changed_becomes_another_run_there(service, tmp_path):
    name, book = service
    drive(name, tmp_path)
    assert book.curve("train/loss") == {"demo": ONE_CURVE, "demo from step 9": CHANGED_CURVE}
    go(name, tmp_path, 10, 13, numerator=3.0)
    assert book.curve("train/loss")["demo from step 9"] == [*CHANGED_CURVE, (13, 3.0 / 13)], "and goes on as that one"
    assert book.num_open == 0


def test_a_loss_that_is_no_number_neither_stops_a_tracker_nor_comes_twice(service, tmp_path):
    name, book = service
    go(name, tmp_path, 0, 2, numerator=float("nan"))
    go(name, tmp_path, 0, 3, numerator=float("nan"))
    assert [step for step, _ in book.curve("train/loss")["demo"]] == [1, 2, 3]


def test_name_project_tags_and_recipe_arrive(service, tmp_path):
    name, book = service
    go(name, tmp_path, 0, 1)
    [facts] = book.runs.values()
    assert (facts["name"], facts["project"]) == ("demo", "p")
    assert {"wandb": {"optim": {"lr": 1e-4}}, "mlflow": {"optim.lr": "0.0001"},
            "trackio": {"optim": {"lr": 1e-4}, "tags": list(TAGS)}}[name] == facts["config"]  # fmt: skip
    assert list(facts["tags"]) == list(TAGS) if name != "mlflow" else facts["tags"] == {"mine": "mine", "rank": "8"}


@pytest.mark.parametrize(
    ("is_online", "variable", "mode"),
    [(False, None, "offline"), (True, None, "online"), (False, "online", "online"), (True, "disabled", "disabled")],
)
def test_weights_and_biases_stays_at_home_unless_recipe_or_variable_say_so(
    monkeypatch, tmp_path, is_online, variable, mode
):
    book = put_in_place(monkeypatch, "wandb")
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    go("wandb", tmp_path, 0, 1, is_online=is_online)
    assert [facts["mode"] for facts in book.runs.values()] == [mode]


@pytest.mark.parametrize("name", NAMES)
def test_without_the_package_the_error_says_how_to_install_it(name, monkeypatch, tmp_path):
    put_in_place(monkeypatch, name)
    monkeypatch.setitem(sys.modules, PACKAGES[name][-1], None)
    with pytest.raises(ImportError, match=rf"{name} is not installed \(pip install 'whet\[{name}\]'\)"):
        TRACKERS[name]().start(TrackedRun(name="demo", folder=tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_the_library_itself_keeps_the_same_curves_in_the_run_folder(name, tmp_path, monkeypatch):
    for package in PACKAGES[name]:
        pytest.importorskip(package, reason=f"{name} is not installed")
    for secret in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(secret, "CANARY" * 7)
    folder = tmp_path / "run"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.chdir(tmp_path)
    ended = subprocess.run(
        [sys.executable, str(SUPPORT / "real_tracker.py"), name, str(folder)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    kept = json.loads(ended.stdout)
    in_order = {run: [tuple(pair) for pair in curve] for run, curve in kept["curves"]["train/loss"].items()}
    assert in_order == {"demo": ONE_CURVE, "demo from step 9": CHANGED_CURVE}
    assert kept["curves"]["eval/answer_accuracy"]["demo"] == [[5, 0.05], [10, 0.1]]
    assert kept["project"] == "p" and set(TAGS) <= {tag.replace("mine:mine", "mine") for tag in kept["tags"]}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"CANARY" in path.read_bytes()]
    assert not [path for path in written if not path.is_relative_to(folder)], "it stays in the run folder"
