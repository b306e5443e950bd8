"""One rank leads, the others wait for its word: texts between them, for work that only the leader can plan.

The leader may do other things for long between two words, longer than a collective of a training step may last. A rank
that dies is noticed at once all the same, and one that is stopped when the watch's time is over (watch.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from whet.parallel import env as parallel_env
from whet.parallel import watch
from whet.parallel.collective import raise_if_lost
from whet.parallel.env import Env
from whet.parallel.patience import patient_group
from whet.parallel.reduce import broadcast_text, gather_texts


class Team:
    """All ranks; of one process alone, nothing here waits."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self._group = patient_group()

    def tell(self, text: str) -> None:
        """The leader's word, to everyone who calls `hear`."""
        broadcast_text(text, self._group, is_patient=True)

    def hear(self) -> str:
        """The leader's next word."""
        return broadcast_text(None, self._group, is_patient=True)

    def gather(self, text: str) -> list[str]:
        """Everyone's text, in the order of the ranks; all must call it."""
        return gather_texts(text, self._group, is_patient=True)


@contextmanager
def joined(env: Env, device: torch.device, *, timeout_seconds: float, folder: Path) -> Iterator[Team]:
    """The team of all ranks that this process is one of, for as long as this lasts.

    A rank that does not live for `timeout_seconds` ends the others; what is known of it goes into the run folder.
    """
    parallel_env.start(env, device, timeout_seconds=timeout_seconds, folder=folder)
    try:
        if (present := watch.current()) is not None:
            present.presence.phase = lambda: "evaluation"
        yield Team(env)
    except RuntimeError as error:
        raise_if_lost(error)
        raise
    finally:
        parallel_env.stop()
