"""A run folder that is looked at again and again while the run goes on: what was read is not read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.report.live_samples import FILE_NAME, LiveSample, RowSamples, by_row, parse_sample
from whet.report.metrics_log import Event, MetricsLog, StepPoint
from whet.report.new_lines import Place, read_new_lines
from whet.report.run_folder import IncidentLine, parse_incident, read_document

_FEWEST_STEPS = 2
_RECENT_STEPS = 20


class Follower:
    """What the files say so far; `look` brings it up to date. Nothing but the run folder is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_looks = 0
        self._places: dict[str, Place] = {}
        self.log = MetricsLog()
        self.samples: list[LiveSample] = []
        self.incidents: list[IncidentLine] = []
        self.plan: Mapping[str, Any] = {}
        self.summary: Mapping[str, Any] = {}

    def look(self) -> bool:
        """Read what is new; whether there was anything."""
        found = [self._look_at("metrics.jsonl"), self._look_at(FILE_NAME), self._look_at("incidents.jsonl")]
        plan, summary = (read_document(self.folder / name) for name in ("run_plan.json", "summary.json"))
        is_new = any(found) or (plan, summary) != (self.plan, self.summary)
        self.plan, self.summary = plan, summary
        self.num_looks += 1
        return is_new

    def _look_at(self, name: str) -> bool:
        has_more, is_new = True, False
        while has_more:
            lines = read_new_lines(self.folder / name, self._places.get(name, Place()))
            self._places[name], has_more = lines.place, lines.has_more
            if lines.is_anew:
                self._forget(name)
            for line in lines.objects:
                self._add(name, line)
            is_new = is_new or bool(lines.objects) or lines.is_anew
        return is_new

    def _forget(self, name: str) -> None:
        """The file was written anew: a resumed run takes back the lines of steps that it makes again."""
        if name == "metrics.jsonl":
            self.log = MetricsLog()
        elif name == FILE_NAME:
            self.samples = []
        else:
            self.incidents = []

    def _add(self, name: str, line: Mapping[str, Any]) -> None:
        if name == "metrics.jsonl":
            self.log.add(line)
        elif name == FILE_NAME:
            self.samples += [sample] if (sample := parse_sample(line)) else []
        else:
            self.incidents += [incident] if (incident := parse_incident(line)) else []

    @property
    def rows(self) -> tuple[RowSamples, ...]:
        """The answers of training, row by row."""
        return by_row(self.samples)

    @property
    def events(self) -> list[Event]:
        """Without those that are told as incidents."""
        told = {(incident.step, incident.text) for incident in self.incidents}
        return [event for event in self.log.events if (event.step, event.text) not in told]

    @property
    def total_steps(self) -> int | None:
        total = self.plan.get("total_steps")
        return total if isinstance(total, int) and not isinstance(total, bool) and total > 0 else None


def seconds_left(log: MetricsLog, total_steps: int | None) -> float | None:
    """Until the last step, at the pace of the last steps, evaluations included; None where that is not known."""
    steps = log.steps
    if total_steps is None or len(steps) < _FEWEST_STEPS:
        return None
    recent = [point.seconds for point in steps[-_RECENT_STEPS:] if point.seconds is not None]
    if not recent:
        return None
    evaluating = sum(point.seconds for point in log.evals) / len(steps)
    return max(0, total_steps - steps[-1].step) * (sum(recent) / len(recent) + evaluating)


def tokens_per_second(steps: tuple[StepPoint, ...]) -> float | None:
    """Mean of the last steps."""
    recent = [point.tokens_per_second for point in steps[-_RECENT_STEPS:] if point.tokens_per_second is not None]
    return sum(recent) / len(recent) if recent else None


def clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    whole = int(seconds + 0.5)
    hours, rest = divmod(whole, 3600)
    minutes, seconds_left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"
