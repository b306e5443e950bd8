"""JSON documents, one on each line, over a connected socket. Nothing here waits, and nothing received is trusted."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MOST_BYTES = 1 << 16


class Wire:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.is_closed = False
        """the other end is closed, or the connection is broken"""
        self._incoming = b""
        self._outgoing = b""

    def send(self, document: Mapping[str, Any]) -> None:
        """Send as much as the connection takes now, the rest with the next call; what nobody reads is dropped."""
        if len(self._outgoing) < _MOST_BYTES:
            self._outgoing += json.dumps(document).encode("ascii") + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what is left over."""
        try:
            while self._outgoing and not self.is_closed:
                self._outgoing = self._outgoing[self.connection.send(self._outgoing) :]
        except BlockingIOError:
            return
        except OSError:
            self.is_closed = True

    def receive(self) -> list[dict[str, Any]]:
        """The documents that have come; lines that are none are passed over."""
        try:
            while chunk := self.connection.recv(4096):
                self._incoming += chunk
                if len(self._incoming) > _MOST_BYTES:
                    self.is_closed = True
                    return []
            self.is_closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.is_closed = True
        *lines, self._incoming = self._incoming.split(b"\n")
        return [document for line in lines if isinstance(document := _parsed(line), dict)]

    def close(self) -> None:
        """Close this end."""
        self.is_closed = True
        self.connection.close()


def drain(wires: Iterable[Wire]) -> None:
    """Close connections whose last words were sent, once the other ends have closed theirs, or after a second.

    A connection that is closed over unread words may take the last words along.
    """
    deadline = time.monotonic() + 1.0
    left = [wire for wire in wires if not wire.is_closed]
    while left and time.monotonic() < deadline:
        for wire in left:
            wire.flush()
            wire.receive()
        left = [wire for wire in left if not wire.is_closed]
        time.sleep(0.01)
    for wire in wires:
        wire.close()


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def listen(*, is_local: bool) -> socket.socket:
    """A listening socket on a free port: of the loopback alone, or of all interfaces."""
    if is_local:
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def connect(addresses: Sequence[str], port: int, *, seconds: float) -> socket.socket | None:
    """A connection to the first of `addresses` that takes one; None when none does."""
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=seconds)
        except OSError:
            continue
    return None


def own_addresses(towards: str) -> list[str]:
    """Addresses of this machine, the one that faces `towards` first, and `towards` itself at the end."""
    found = []
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(place)  # sends nothing: it only chooses the way
            found.append(str(probe.getsockname()[0]))
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)]
    except OSError:
        pass  # the name is not known here; the others may know it
    far = [address for address in found if not address.startswith("127.") and address != "::1"]
    return list(dict.fromkeys([*far, towards]))


def is_loopback(address: str) -> bool:
    """Whether `address` can only be meant for ranks on one machine."""
    return address in ("localhost", "::1") or address.startswith("127.")
