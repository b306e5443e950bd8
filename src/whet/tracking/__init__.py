"""Trackers: where a run's numbers go. metrics.jsonl is always written; others join by name."""

from whet.tracking.described import describe
from whet.tracking.protocol import TrackedRun, Tracker
from whet.tracking.trackers import TRACKERS, TrackerGroup

__all__ = ["TRACKERS", "TrackedRun", "Tracker", "TrackerGroup", "describe"]
