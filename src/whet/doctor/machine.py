"""Network interfaces and InfiniBand ports of this machine, as the kernel shows them. Free of torch."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_SIOCGIFADDR = 0x8915
_INSIDE = ("lo", "docker", "veth", "br-", "virbr", "cni", "flannel", "cali", "podman", "tunl")
"""names of interfaces that lead to no other machine; NCCL too takes lo and docker last"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One network interface."""

    name: str
    is_up: bool
    address: str = ""
    """IPv4; empty where it has none"""
    megabits_per_second: int | None = None

    @property
    def leads_outside(self) -> bool:
        """Whether another machine may be reached over it."""
        return self.is_up and bool(self.address) and not self.name.startswith(_INSIDE)

    @property
    def words(self) -> str:
        """`eth0 (10.0.0.4, 10 Gb/s)`."""
        speed = f", {self.megabits_per_second / 1000:g} Gb/s" if self.megabits_per_second else ""
        return f"{self.name} ({self.address or 'no IPv4 address'}{speed})" if self.is_up else f"{self.name} (down)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One port of an InfiniBand or RoCE adapter."""

    name: str
    """`mlx5_0:1`"""
    is_active: bool
    rate: str
    """`400 Gb/sec (4X NDR)`, in the kernel's words"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What ranks of several machines would talk over."""

    interfaces: tuple[Interface, ...]
    ports: tuple[Port, ...]
    shared_memory_bytes: int | None
    """size of /dev/shm; None where there is none"""
    locked_memory_bytes: int | None
    """what a process may lock; None: no limit"""
    host: str
    host_address: str
    """what the host's own name leads to; empty where it leads nowhere"""

    @property
    def outward(self) -> list[Interface]:
        return [interface for interface in self.interfaces if interface.leads_outside]

    @property
    def active_ports(self) -> list[Port]:
        return [port for port in self.ports if port.is_active]


def look_at_machine(root: Path = Path("/")) -> Machine:
    """This machine; `root` is another one's file tree, for tests."""
    host = socket.gethostname()
    return Machine(
        interfaces=tuple(_interfaces(root / "sys/class/net")),
        ports=tuple(_ports(root / "sys/class/infiniband")),
        shared_memory_bytes=_shared_memory(root / "dev/shm"),
        locked_memory_bytes=_locked_memory(),
        host=host,
        host_address=_address_of_host(host),
    )


def _interfaces(folder: Path) -> list[Interface]:
    if not folder.is_dir():
        return []
    return [
        Interface(
            name=path.name,
            # a loopback says `unknown`
            is_up=_read(path / "operstate") in ("up", "unknown"),
            address=_address_of_interface(path.name),
            megabits_per_second=_positive(_read(path / "speed")),
        )
        for path in sorted(folder.iterdir())
        if path.is_dir()
    ]


def _ports(folder: Path) -> list[Port]:
    return [
        Port(
            name=f"{path.parents[1].name}:{path.name}",
            is_active="ACTIVE" in _read(path / "state"),
            rate=_read(path / "rate"),
        )
        for path in sorted(folder.glob("*/ports/*"))
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""  # the speed of an interface that is down cannot be read


def _positive(text: str) -> int | None:
    return int(text) if text.isdigit() and int(text) > 0 else None


def _address_of_interface(name: str) -> str:
    request = struct.pack("256s", name.encode()[:15])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            return socket.inet_ntoa(fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)[20:24])
    except OSError:
        return ""


def _address_of_host(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return ""


def _shared_memory(path: Path) -> int | None:
    import shutil

    return shutil.disk_usage(path).total if path.is_dir() else None


def _locked_memory() -> int | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if limit == resource.RLIM_INFINITY else limit
