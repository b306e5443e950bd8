"""MLflow: a database in `<run folder>/logs/mlflow.db`, or the server that MLFLOW_TRACKING_URI names.

A continued run goes on as the same run, with the steps that the store does not have.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.tracking.names import EVAL_SECONDS, LOSS, numbers_of_eval, numbers_of_step
from whet.tracking.protocol import TrackedRun
from whet.tracking.told import Notes, Told
from whet.types import StepRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOST_PARAMETERS = 100
"""that MLflow takes in one request"""
_LONGEST_PARAMETER = 6000


class MlflowTracker:
    """Tracker for MLflow; needs mlflow-skinny, sqlalchemy and alembic (or mlflow), else `start` raises ImportError."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._tracked: TrackedRun | None = None
        self._notes = Notes(Path())
        self._run_id = ""
        self._told = Told()

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or go on with the one that is noted in `logs/mlflow.jsonl`."""
        logs = run.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._tracked, self._notes = run, Notes(logs / "mlflow.jsonl")
        known, _ = self._notes.read()
        self._client = _client(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(logs / 'mlflow.db').absolute()}")
        if known is None:
            self._begin(run.name)
            return
        self._run_id = known
        self._client.update_run(known, status="RUNNING")
        losses = {each.step: each.value for each in self._client.get_metric_history(known, LOSS)}
        self._told = Told(losses, [each.step for each in self._client.get_metric_history(known, EVAL_SECONDS)])

    def log_step(self, record: StepRecord) -> None:
        """All numbers of the step; none for a step that it has."""
        if self._told.differs(record.step, record.loss):
            self._begin_another(record.step)
        if not self._told.has_step(record.step):
            self._log(record.step, numbers_of_step(record))

    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """All numbers of the evaluation; none for one that it has."""
        if not self._told.has_eval(step):
            self._log(step, numbers_of_eval(metrics))

    def close(self) -> None:
        """Mark the run as finished; a second call does nothing."""
        client, self._client = self._client, None
        if client is not None:
            client.set_terminated(self._run_id)

    def _begin_another(self, step: int) -> None:
        assert self._client is not None and self._tracked is not None, "start() comes first"
        self._client.set_terminated(self._run_id)
        self._told = Told()
        self._begin(f"{self._tracked.name} from step {step}")

    def _begin(self, name: str) -> None:
        assert self._client is not None and self._tracked is not None, "start() comes first"
        from mlflow.entities import Param

        run = self._client.create_run(
            _experiment(self._client, self._tracked), run_name=name, tags=_tags(self._tracked)
        )
        self._run_id = run.info.run_id
        self._notes.note_run(self._run_id)
        parameters = [Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in _flat(self._tracked.config)]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=parameters[first : first + _MOST_PARAMETERS])

    def _log(self, step: int, numbers: Mapping[str, float]) -> None:
        assert self._client is not None, "start() comes first"
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(key, value, now_ms, step) for key, value in numbers.items()]
        )


def _client(address: str) -> MlflowClient:
    """Of the store at `address`; the library's own news stay out of the terminal, its maker is told of nothing."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    warnings.filterwarnings("ignore", module=r"mlflow(\.|$)")
    try:
        from mlflow import MlflowClient

        if address.startswith("sqlite"):
            for name in ("alembic", "sqlalchemy"):
                importlib.import_module(name)
    except ImportError as error:
        raise ImportError("mlflow is not installed (pip install 'whet[mlflow]')") from error
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=address)


def _experiment(client: MlflowClient, tracked: TrackedRun) -> str:
    known = client.get_experiment_by_name(tracked.project)
    return known.experiment_id if known is not None else client.create_experiment(tracked.project)


def _tags(tracked: TrackedRun) -> dict[str, str]:
    """`rank:32` as the tag `rank` of value `32`, one without a colon as itself."""
    pairs = (tag.partition(":") for tag in tracked.tags)
    return {name: value or name for name, _, value in pairs}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and plain values, as the command line has them."""
    if isinstance(value, Mapping | list) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
