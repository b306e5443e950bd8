"""MLflow: a database in `<run folder>/logs/mlflow.db`, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import importlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.tracking.names import EVAL_SECONDS, LOSS
from whet.tracking.news import NewsTracker
from whet.tracking.protocol import TrackedRun
from whet.tracking.told import Told

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOST_PARAMETERS = 100
"""that MLflow takes in one request"""
_LONGEST_PARAMETER = 6000


class MlflowTracker(NewsTracker):
    """Tracker for MLflow; needs mlflow-skinny, sqlalchemy and alembic (or mlflow)."""

    name = "mlflow"
    can_be_asked = True

    def __init__(self) -> None:
        super().__init__()
        self._store: MlflowClient | None = None
        self._run_id = ""

    @property
    def _client(self) -> MlflowClient:
        assert self._store is not None, "start() comes first"
        return self._store

    def _prepare(self, logs: Path) -> None:
        self._store = _client(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(logs / 'mlflow.db').absolute()}")

    def _open(self, run: TrackedRun, name: str) -> str:
        from mlflow.entities import Param

        created = self._client.create_run(_experiment(self._client, run), run_name=name, tags=_tags(run))
        self._run_id = created.info.run_id
        parameters = [Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in _flat(run.config)]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=parameters[first : first + _MOST_PARAMETERS])
        return self._run_id

    def _go_on(self, run: TrackedRun, known: str) -> Told:
        self._run_id = known
        self._client.update_run(known, status="RUNNING")
        losses = {each.step: each.value for each in self._client.get_metric_history(known, LOSS)}
        return Told(losses, [each.step for each in self._client.get_metric_history(known, EVAL_SECONDS)])

    def _send(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(key, value, now_ms, step) for key, value in numbers.items()]
        )

    def _end(self) -> None:
        self._client.set_terminated(self._run_id)


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
