"""All ranks meet in a key-value store that may hold what earlier ranks left there: nothing stale is ever believed.

torchrun keeps one store over its restarts, and over a change of the number of nodes. So each rank knocks with a word
that it has just drawn; rank 0 answers that very word with its card, and takes a rank as come when it has thanked:

    rank 1: knock/1 = 8f2c       rank 0: answer/8f2c = card      rank 1: thanks/<id of the card>/1
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

_POLL_SECONDS = 0.01


class KeyValueStore(Protocol):
    """What is used of torch's Store."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def wait(self, keys: list[str], timeout: timedelta, /) -> None: ...


def new_id() -> str:
    """A word that nobody else draws."""
    return secrets.token_hex(16)


def receive(
    store: KeyValueStore, *, card: str, card_id: str, num_ranks: int, seconds: float
) -> Sequence[int]:  # fmt: skip
    """Rank 0: give `card` to all others; returns the ranks that have not come within `seconds`."""
    missing = set(range(1, num_ranks))
    answered: set[str] = set()
    deadline = time.monotonic() + seconds
    while missing and time.monotonic() < deadline:
        for rank in sorted(missing):
            if not store.check([f"knock/{rank}"]):
                continue
            word = store.get(f"knock/{rank}").decode()
            if word not in answered:
                store.set(f"answer/{word}", card)
                answered.add(word)
            if store.check([f"thanks/{card_id}/{rank}"]):
                missing.discard(rank)
        if missing:
            time.sleep(_POLL_SECONDS)
    return sorted(missing)


def knock(store: KeyValueStore, *, rank: int, seconds: float) -> str:
    """Every other rank: rank 0's card. Raises torch's DistStoreError (a RuntimeError) when it does not come."""
    word = new_id()
    store.set(f"knock/{rank}", word)
    store.wait([f"answer/{word}"], timedelta(seconds=seconds))
    return store.get(f"answer/{word}").decode()


def thank(store: KeyValueStore, *, rank: int, card_id: str) -> None:
    """Rank 0 may go on without waiting for this rank any more."""
    store.set(f"thanks/{card_id}/{rank}", "1")
