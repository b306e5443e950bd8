"""What wandb, mlflow and trackio take of us, in memory: modules in their places and a book of what they were told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class Book:
    """Runs by id in the order in which they began, and every number that came, in order."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[tuple[str, int, dict[str, float]]] = field(default_factory=list)
    """run, step, numbers"""
    num_open: int = 0

    def begin(self, run: str, **facts: Any) -> None:
        self.num_open += 1
        self.runs.setdefault(run, facts)

    def curve(self, number: str) -> dict[str, list[tuple[int, float]]]:
        """Name of a run -> steps and values, in the order in which they came."""
        found: dict[str, list[tuple[int, float]]] = {facts["name"]: [] for facts in self.runs.values()}
        for run, step, numbers in self.rows:
            if number in numbers:
                found[self.runs[run]["name"]].append((step, numbers[number]))
        return found


class _WandbRun:
    def __init__(self, book: Book, run: str) -> None:
        self._book, self._run = book, run

    def define_metric(self, name: str, *, step_metric: str | None = None) -> None:
        assert (name, step_metric) in (("train/global_step", None), ("*", "train/global_step"))

    def log(self, data: dict[str, float]) -> None:
        self._book.rows.append((self._run, int(data["train/global_step"]), data))

    def finish(self) -> None:
        self._book.num_open -= 1


def wandb(book: Book) -> dict[str, ModuleType]:
    """The module, by name."""

    def init(*, project, name, id, resume, dir, tags, config, allow_val_change, mode, settings):
        assert (resume == "allow") == (id in book.runs), "a known run goes on, a new one does not"
        book.begin(id, name=name, project=project, tags=tags, config=config, mode=mode)
        return _WandbRun(book, id)

    module: Any = ModuleType("wandb")
    module.init, module.Settings = init, SimpleNamespace
    return {"wandb": module}


class _MlflowClient:
    def __init__(self, book: Book, tracking_uri: str) -> None:
        assert tracking_uri.startswith("sqlite:////")
        self._book = book
        self._experiments: dict[str, str] = {}

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=self._experiments[name]) if name in self._experiments else None

    def create_experiment(self, name: str) -> str:
        self._experiments[name] = f"experiment of {name}"
        return self._experiments[name]

    def create_run(self, experiment_id: str, *, run_name: str, tags: Mapping[str, str]) -> SimpleNamespace:
        run = f"run-{len(self._book.runs)}"
        self._book.begin(run, name=run_name, project=experiment_id.removeprefix("experiment of "), tags=tags, config={})
        return SimpleNamespace(info=SimpleNamespace(run_id=run))

    def update_run(self, run_id: str, *, status: str) -> None:
        assert run_id in self._book.runs and status == "RUNNING"
        self._book.num_open += 1

    def log_batch(self, run_id: str, metrics=(), params=()) -> None:
        assert len(params) <= 100 and all(len(value) <= 6000 for _, value in params)
        self._book.runs[run_id]["config"] |= dict(params)
        for name, value, _, step in metrics:
            self._book.rows.append((run_id, step, {name: value}))

    def get_metric_history(self, run_id: str, key: str) -> list[SimpleNamespace]:
        rows = ((step, numbers[key]) for run, step, numbers in self._book.rows if run == run_id and key in numbers)
        return [SimpleNamespace(step=step, value=value) for step, value in rows]

    def set_terminated(self, run_id: str) -> None:
        self._book.num_open -= 1


def mlflow(book: Book) -> dict[str, ModuleType]:
    """The module with its entities, and what its databases need."""
    module: Any = ModuleType("mlflow")
    module.MlflowClient = lambda *, tracking_uri: _MlflowClient(book, tracking_uri)
    entities: Any = ModuleType("mlflow.entities")
    entities.Metric = lambda key, value, timestamp, step: (key, value, timestamp, step)
    entities.Param = lambda key, value: (key, value)
    others = {name: ModuleType(name) for name in ("alembic", "sqlalchemy")}
    return {"mlflow": module, "mlflow.entities": entities, **others}


class _TrackioRun:
    def __init__(self, book: Book, name: str) -> None:
        self._book, self.name = book, name

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        self._book.rows.append((self.name, step, metrics))

    def finish(self) -> None:
        self._book.num_open -= 1


def trackio(book: Book) -> dict[str, ModuleType]:
    """The module and those of its modules that print."""

    def init(*, project, name, config, resume, embed, auto_log_gpu, auto_log_cpu):
        assert (resume == "must") == (name in book.runs), "a known run goes on, a new one does not"
        book.begin(name, name=name, project=project, tags=config["tags"], config=config)
        return _TrackioRun(book, name)

    class Storage:
        @staticmethod
        def get_logs(project: str, run: str) -> list[dict[str, float]]:
            return [{"step": step, **numbers} for name, step, numbers in book.rows if name == run]

    module: Any = ModuleType("trackio")
    module.init, module.SQLiteStorage = init, Storage
    module.run, module.utils = ModuleType("trackio.run"), ModuleType("trackio.utils")
    return {"trackio": module, "trackio.run": module.run, "trackio.utils": module.utils}


STAND_INS = {"wandb": wandb, "mlflow": mlflow, "trackio": trackio}


def put_in_place(monkeypatch, name: str) -> Book:
    """The stand-in for one library in `sys.modules`; its book."""
    book = Book()
    for each, module in STAND_INS[name](book).items():
        monkeypatch.setitem(sys.modules, each, module)
    for variable in ("WANDB_MODE", "WANDB_CACHE_DIR", "WANDB_ERROR_REPORTING", "MLFLOW_TRACKING_URI",
                     "MLFLOW_DISABLE_TELEMETRY", "TRACKIO_DIR"):  # fmt: skip
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    return book
