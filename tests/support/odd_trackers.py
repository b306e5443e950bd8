"""`python -m odd_trackers KIND ...` is the command line with a tracker in tensorboard's place that fails as KIND says.

hang     never returns from the second step
raise    raises an error of its own at the third step
http     posts every step to the address in TRACKER_URL
"""

from __future__ import annotations

import json
import os
import sys
import threading
import urllib.request
from collections.abc import Mapping

from whet.cli.main import main
from whet.tracking import TrackedRun, trackers
from whet.types import StepRecord


class OddError(Exception):
    """No OSError: the kind that a client library makes up."""


class Quiet:
    """Takes everything."""

    def start(self, run: TrackedRun) -> None: ...
    def log_step(self, record: StepRecord) -> None: ...
    def log_eval(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Hang(Quiet):
    def log_step(self, record: StepRecord) -> None:
        if record.step >= 2:
            threading.Event().wait()


class Raise(Quiet):
    def log_step(self, record: StepRecord) -> None:
        if record.step == 3:
            raise OddError("the server says no")


class Http(Quiet):
    def log_step(self, record: StepRecord) -> None:
        body = json.dumps({"step": record.step, "loss": record.loss}).encode()
        urllib.request.urlopen(os.environ["TRACKER_URL"], data=body, timeout=60).close()


KINDS = {"hang": Hang, "raise": Raise, "http": Http}

if __name__ == "__main__":
    trackers.TRACKERS["tensorboard"] = KINDS[sys.argv.pop(1)]
    main()
