"""How ranks find each other: they meet in the launcher's store, agree on fresh keys, and set up the watch."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from functools import cache
from pathlib import Path

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from whet.errors import PeerLostError
from whet.parallel import meeting, watch, wire
from whet.parallel.posts import Keeper, Member, Post
from whet.parallel.presence import Presence

MEETING_SECONDS = 120
"""ranks may come as far apart as that: their machines start and read at different speeds"""
_CONNECT_SECONDS = 5.0
_TOGETHER = "start all ranks together (torchrun), look at what the missing ones say, check MASTER_ADDR and MASTER_PORT"


def join(*, rank: int, num_ranks: int, timeout_seconds: float, folder: Path | None) -> Store:
    """A store under keys that no earlier rank has used; from now on the watch is on.

    PeerLostError when ranks do not come.
    """
    try:
        store = _meeting_point(rank, num_ranks)
        meet = _as_first if rank == 0 else _as_other
        card_id, post = meet(store, rank, num_ranks, timeout_seconds)
    except (RuntimeError, ValueError) as error:
        raise PeerLostError(
            f"rank {rank} of {num_ranks} could not join the others: {error}", mend=_TOGETHER
        ) from error  # fmt: skip
    if post is not None:
        watch.begin(post, rank=rank, num_ranks=num_ranks, folder=folder)
    return PrefixStore(f"whet/{card_id}", store)


@cache
def _meeting_point(rank: int, num_ranks: int) -> Store:
    """The key-value store at MASTER_ADDR, which rank 0 or the launcher keeps open as long as the process lives."""
    store, _, _ = next(rendezvous("env://", rank, num_ranks, timeout=timedelta(seconds=MEETING_SECONDS)))
    return store


def _as_first(store: Store, rank: int, num_ranks: int, timeout_seconds: float) -> tuple[str, Post | None]:
    master = os.environ.get("MASTER_ADDR", "localhost")
    listener = wire.listen(is_local=wire.is_loopback(master))
    addresses = [master] if wire.is_loopback(master) else wire.own_addresses(master)
    card = {"id": meeting.new_id(), "addresses": addresses, "port": listener.getsockname()[1]}
    missing = meeting.receive(
        store, card=json.dumps(card), card_id=card["id"], num_ranks=num_ranks, seconds=MEETING_SECONDS
    )  # fmt: skip
    if missing:
        listener.close()
        names = ", ".join(map(str, missing))
        raise PeerLostError(
            f"rank 0 of {num_ranks} waited {MEETING_SECONDS} s: of the others, {names} did not come", mend=_TOGETHER
        )
    return card["id"], Keeper(listener, card["id"], timeout_seconds=timeout_seconds)


def _as_other(store: Store, rank: int, num_ranks: int, timeout_seconds: float) -> tuple[str, Post | None]:
    card = json.loads(meeting.knock(store, rank=rank, seconds=MEETING_SECONDS))
    connection = wire.connect(card["addresses"], card["port"], seconds=_CONNECT_SECONDS)
    meeting.thank(store, rank=rank, card_id=card["id"])
    if connection is None:
        places = ", ".join(f"{address}:{card['port']}" for address in card["addresses"])
        sys.stderr.write(
            f"rank {rank} cannot reach rank 0's watch ({places}): a lost rank will be noticed in a collective only\n"
        )
        return card["id"], None
    post = Member(connection, card["id"], Presence().note(), rank=rank, timeout_seconds=timeout_seconds)
    return card["id"], post
