"""Around every collective of all ranks: the others know who is in it, and a lost rank is an error that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from whet.errors import PeerLostError
from whet.parallel import watch
from whet.parallel.roll import NOBODY
from whet.parallel.watch import AGAIN, lost


@contextmanager
def collective(name: str, *, is_patient: bool = False) -> Iterator[None]:
    """One collective that all ranks enter, in the same order; `is_patient`: some may come to it much later.

    PeerLostError when a rank is lost: who it is, who waits for it and where.
    """
    present = watch.current()
    if present is None:
        try:
            yield
        except RuntimeError as error:
            raise _unwatched(name, error) from error
        return
    if (verdict := present.notice()) is not None:
        raise lost(dist.get_rank(), verdict)
    present.presence.enter(name, is_patient=is_patient)
    try:
        yield
    except RuntimeError as error:
        verdict = present.complain(f"the {present.presence.collective}")
        raise (_unwatched(name, error) if verdict is None else _explained(verdict, error)) from error
    finally:
        present.presence.leave()


@contextmanager
def awaited() -> Iterator[None]:
    """Waiting for what the last collective gives: on a GPU it was only put into a queue."""
    present = watch.current()
    if present is None:
        yield
        return
    present.presence.come_back()
    try:
        yield
    finally:
        present.presence.leave()


def raise_if_lost(error: RuntimeError) -> None:
    """PeerLostError in place of `error` where it comes from a lost rank, which a library's message does not say."""
    present = watch.current()
    if present is None or isinstance(error, PeerLostError):
        return
    if (verdict := present.notice()) is None and _sounds_like_a_lost_rank(error):
        verdict = present.complain(present.presence.note().doing)
    if verdict is not None:
        raise _explained(verdict, error) from error


def _sounds_like_a_lost_rank(error: RuntimeError) -> bool:
    """torch's errors of process groups, and gloo's, which have no class of their own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _explained(verdict: str, error: RuntimeError) -> PeerLostError:
    """Where nobody is to blame, what torch says is all there is."""
    if verdict.startswith(NOBODY):
        verdict = f"{verdict}; torch says: {str(error).strip().partition(chr(10))[0]}"
    return lost(dist.get_rank(), verdict)


def _unwatched(name: str, error: RuntimeError) -> PeerLostError:
    return PeerLostError(f"rank {dist.get_rank()} waited for the others in the {name}: {error}", mend=AGAIN)
