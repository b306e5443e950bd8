"""One rank leads, the others wait for its word: texts between them, for work that only the leader can plan.

The leader may do other things for long between two words, longer than a collective of a training step may last. A rank
that dies is noticed at once all the same: its connections close.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from whet.errors import PeerLostError
from whet.parallel import env as parallel_env
from whet.parallel.env import Env
from whet.parallel.reduce import broadcast_text, gather_texts

WAIT_SECONDS = 3600


class Team:
    """All ranks; of one process alone, nothing here waits."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self._group: dist.ProcessGroup | None = None
        if env.world_size > 1:
            # gloo moves texts whatever the model's device
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=WAIT_SECONDS))

    def tell(self, text: str) -> None:
        """The leader's word, to everyone who calls `hear`."""
        self._exchange(text)

    def hear(self) -> str:
        """The leader's next word."""
        return self._exchange(None)

    def gather(self, text: str) -> list[str]:
        """Everyone's text, in the order of the ranks; all must call it."""
        return gather_texts(text, self._group)

    def _exchange(self, text: str | None) -> str:
        try:
            return broadcast_text(text, self._group)
        except RuntimeError as error:
            raise PeerLostError(
                f"rank {self.env.rank} lost another one: {error}",
                mend="give the same command again: what is on the disk is used again",
            ) from error


@contextmanager
def joined(env: Env, device: torch.device) -> Iterator[Team]:
    """The team of all ranks that this process is one of, for as long as this lasts."""
    parallel_env.start(env, device)
    try:
        yield Team(env)
    finally:
        parallel_env.stop()
