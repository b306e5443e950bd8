"""The two ends of the watch: rank 0 keeps the roll and decides, the others report to it and watch it alone.

    others -> rank 0:  {"hello": secret, "rank": 1, "note": {...}}   {"note": {...}}   {"complaint": "the barrier"}
    rank 0 -> others:  {"note": {...}}                {"verdict": "rank 1 (host ...) is gone ..."}
    both ways:         {"farewell": "why", "is_fault": true}

A process that ends, in whatever way, closes its connections, so its end is known at once; one that is stopped, or whose
machine or network is, falls silent.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Protocol

from whet.parallel.roll import Entry, Note, blame, judge, silent_for
from whet.parallel.wire import Wire, drain

COMPLAINT_SECONDS = 2.5
"""from a complaint to the judgement: longer than two beats, so that a rank that has just fallen silent is seen to be"""
_NOTE_FIELDS = {f.name for f in fields(Note)}


class Post(Protocol):
    """One end of the watch."""

    def turn(self, own: Note, *, seconds: float, is_beat: bool, complaint: str) -> str | None:
        """Hear and tell; `seconds` have passed since the last turn. Returns the verdict, once there is one."""

    def leave(self, why: str, *, is_fault: bool) -> None:
        """Say farewell and close."""

    def host_of(self, rank: int) -> str:
        """The machine of `rank`; empty where it is not known."""


class Keeper:
    """Rank 0's end."""

    def __init__(self, listener: socket.socket, secret: str, *, timeout_seconds: float) -> None:
        listener.setblocking(False)
        self._listener, self._secret, self._timeout_seconds = listener, secret, timeout_seconds
        self._strangers: list[Wire] = []
        self._wires: dict[int, Wire] = {}
        self._roll: dict[int, Entry] = {}
        self._complaint, self._complained_seconds = "", 0.0
        self._verdict: str | None = None

    def turn(self, own: Note, *, seconds: float, is_beat: bool, complaint: str) -> str | None:
        self._welcome()
        for rank, wire in self._wires.items():
            self._roll[rank] = silent_for(self._roll[rank], seconds)
            for document in wire.receive():
                self._hear(rank, document)
            entry = self._roll[rank]
            if entry.farewell:
                wire.close()
            self._roll[rank] = replace(entry, is_gone=wire.is_closed and not entry.farewell)
        self._roll[0] = Entry(rank=0, note=own)
        self._complaint = self._complaint or complaint
        if self._verdict is None:
            self._verdict = self._judge(seconds)
            if self._verdict is not None:
                self._tell({"verdict": self._verdict})
        if is_beat:
            self._tell({"note": asdict(own)})
        return self._verdict

    def leave(self, why: str, *, is_fault: bool) -> None:
        self._tell({"farewell": why, "is_fault": is_fault})
        drain(tuple(self._wires.values()))
        for wire in self._strangers:
            wire.close()
        self._listener.close()

    def host_of(self, rank: int) -> str:
        return self._roll[rank].note.host if rank in self._roll else ""

    def _judge(self, seconds: float) -> str | None:
        present = [entry for _, entry in sorted(self._roll.items()) if not entry.has_left]
        verdict = judge(present, timeout_seconds=self._timeout_seconds)
        if verdict is None and self._complaint:
            self._complained_seconds += seconds
            if self._complained_seconds >= COMPLAINT_SECONDS:
                everyone = [entry for _, entry in sorted(self._roll.items())]
                return blame(everyone, complaint=self._complaint, timeout_seconds=self._timeout_seconds)
        return verdict

    def _welcome(self) -> None:
        """Take connections; a stranger must know the secret before anything else it says is heard."""
        try:
            while True:
                self._strangers.append(Wire(self._listener.accept()[0]))
        except BlockingIOError:
            pass
        for wire in tuple(self._strangers):
            documents = wire.receive()
            if not documents and not wire.is_closed:
                continue
            self._strangers.remove(wire)
            rank = self._rank_of(documents[0]) if documents else None
            if rank is None:
                wire.close()
                continue
            self._wires[rank] = wire
            self._roll[rank] = Entry(rank=rank, note=Note())
            for document in documents:
                self._hear(rank, document)

    def _rank_of(self, hello: Mapping[str, Any]) -> int | None:
        knows = hmac.compare_digest(str(hello.get("hello")).encode(), self._secret.encode())
        rank = hello.get("rank")
        return rank if knows and isinstance(rank, int) and rank > 0 and rank not in self._wires else None

    def _hear(self, rank: int, document: Mapping[str, Any]) -> None:
        self._roll[rank] = heard(self._roll[rank], document)
        self._complaint = self._complaint or str(document.get("complaint", ""))

    def _has_left(self, rank: int) -> bool:
        return self._roll[rank].has_left

    def _tell(self, document: Mapping[str, Any]) -> None:
        for rank, wire in self._wires.items():
            if not wire.is_closed and not self._has_left(rank):
                wire.send(document)


class Member:
    """The end of every other rank."""

    def __init__(
        self, connection: socket.socket, secret: str, own: Note, *, rank: int, timeout_seconds: float
    ) -> None:  # fmt: skip
        self._wire, self._rank, self._timeout_seconds = Wire(connection), rank, timeout_seconds
        self._keeper = Entry(rank=0, note=Note())
        self._has_complained = False
        self._verdict: str | None = None
        self._wire.send({"hello": secret, "rank": rank, "note": asdict(own)})

    def turn(self, own: Note, *, seconds: float, is_beat: bool, complaint: str) -> str | None:
        self._keeper = silent_for(self._keeper, seconds)
        for document in self._wire.receive():
            self._keeper = heard(self._keeper, document)
            self._verdict = self._verdict or document.get("verdict")
        if self._keeper.farewell:
            self._wire.close()
        if self._keeper.has_left:
            if complaint and self._verdict is None:
                self._verdict = blame([self._keeper], complaint=complaint, timeout_seconds=self._timeout_seconds)
            return self._verdict
        keeper = replace(self._keeper, is_gone=self._wire.is_closed and not self._keeper.farewell)
        is_alarming = keeper.is_gone or keeper.error or keeper.silent_seconds >= self._timeout_seconds
        if self._verdict is None and is_alarming:
            self._verdict = judge([keeper, Entry(rank=self._rank, note=own)], timeout_seconds=self._timeout_seconds)
        if is_beat or (complaint and not self._has_complained):
            self._wire.send({"note": asdict(own)})
        if complaint and not self._has_complained:
            self._has_complained = True
            self._wire.send({"complaint": complaint})
        self._wire.flush()
        return self._verdict

    def leave(self, why: str, *, is_fault: bool) -> None:
        self._wire.send({"farewell": why, "is_fault": is_fault})
        drain([self._wire])

    def host_of(self, rank: int) -> str:
        return self._keeper.note.host if rank == 0 else ""


def heard(entry: Entry, document: Mapping[str, Any]) -> Entry:
    """`entry` after its rank has said this."""
    entry = replace(entry, silent_seconds=0.0)
    if isinstance(note := document.get("note"), Mapping):
        entry = replace(entry, note=Note(**{key: value for key, value in note.items() if key in _NOTE_FIELDS}))
    if "farewell" in document:
        why = str(document["farewell"])
        is_fault = bool(document.get("is_fault"))
        entry = replace(entry, has_left=not is_fault, error=why if is_fault else "", farewell=why)
    return entry
