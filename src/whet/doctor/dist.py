"""What stands between the ranks of several processes and machines: interfaces, InfiniBand, variables, timeouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.doctor.finding import Finding
from whet.doctor.machine import Interface, Machine

OUR_TIMEOUT = "parallel.timeout_seconds in the recipe (120 unless set) is what counts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable that guides tell people to set."""

    name: str
    does: str
    """what it does, where it is read"""
    better: str = ""
    """what to do instead, where nobody reads it"""


VARIABLES = (
    Variable(
        name="NCCL_TIMEOUT",
        does="sets how long a collective may take",
        better=f"leave it out: {OUR_TIMEOUT}",
    ),
    Variable(
        name="NCCL_ASYNC_ERROR_HANDLING",
        does="says what torch does when a collective fails",
        better="its name is TORCH_NCCL_ASYNC_ERROR_HANDLING now, and torchrun sets it already: leave it out",
    ),
    Variable(
        name="NCCL_BLOCKING_WAIT",
        does="lets every collective be waited for on the spot, which is slow",
        better="leave it out: whet watches the ranks itself",
    ),
    Variable(
        name="TORCH_NCCL_AVOID_RECORD_STREAMS",
        does="changes how torch keeps buffers of collectives alive",
        better="leave it out: torch does so by itself by now",
    ),
    Variable(name="NCCL_DEBUG", does="lets NCCL say what it does: WARN for errors, INFO for everything"),
    Variable(
        name="NCCL_P2P_DISABLE",
        does="keeps GPUs from writing into each other's memory: much slower, and only a test for damaged sums",
    ),
    Variable(name="NCCL_NVLS_ENABLE", does="switches sums inside NVLink switches on or off"),
)


def check_distributed(
    machine: Machine, variables: Mapping[str, str], readers: Mapping[str, Sequence[str]], *, has_nccl: bool
) -> list[Finding]:
    """All findings that need no other rank. `readers`: which libraries hold the name of a variable."""
    return [
        _interfaces(machine),
        _chosen_interface("NCCL_SOCKET_IFNAME", variables, machine),
        _chosen_interface("GLOO_SOCKET_IFNAME", variables, machine),
        _infiniband(machine, variables),
        *(_variable(each, variables, readers, has_nccl=has_nccl) for each in VARIABLES if each.name in variables),
        _timeout(),
        _own_name(machine),
        *_memory(machine),
    ]


def _interfaces(machine: Machine) -> Finding:
    words = ", ".join(interface.words for interface in machine.interfaces if interface.name != "lo")
    if machine.outward:
        return Finding(check="network interfaces", state="good", found=words)
    return Finding(
        check="network interfaces",
        state="note",
        found=words or "the loopback alone",
        why="ranks of this machine find each other; those of another one cannot be reached",
        mend="for several machines: bring up an interface with an address",
    )


def matches(setting: str, name: str) -> bool:
    """NCCL's rule: a list of prefixes, `=` for whole names, `^` for all but these."""
    is_not = setting.startswith("^")
    setting = setting.removeprefix("^")
    is_whole = setting.startswith("=")
    names = [part for part in setting.removeprefix("=").split(",") if part]
    is_named = any(name == part if is_whole else name.startswith(part) for part in names)
    return is_named != is_not


def _chosen_interface(variable: str, variables: Mapping[str, str], machine: Machine) -> Finding:
    setting = variables.get(variable, "")
    library = "NCCL" if variable.startswith("NCCL") else "gloo"
    if not setting:
        return _no_interface_chosen(variable, library, machine)
    if library == "NCCL":
        chosen = [interface for interface in machine.interfaces if matches(setting, interface.name)]
    else:
        chosen = [interface for interface in machine.interfaces if interface.name in setting.split(",")]
    usable = [interface for interface in chosen if interface.is_up and interface.address]
    if usable:
        inside = all(interface.name == "lo" for interface in usable)
        return Finding(
            check=variable,
            state="note" if inside and machine.outward else "good",
            found=f"{setting}: {_words(usable)}",
            why="the loopback reaches ranks of this machine only" if inside else "",
            mend=f"for several machines: unset {variable}" if inside else "",
        )
    is_there = f"{_words(chosen)} without a working address" if chosen else "no interface of this machine"
    better = f"export {variable}={machine.outward[0].name}, or " if machine.outward else ""
    return Finding(
        check=variable,
        state="fault",
        found=f"{setting}, which names {is_there}",
        why=f"{library} ends with an error (`no socket interface found`) or waits until the timeout",
        mend=f"{better}unset {variable}: {library} then finds one by itself",
    )


def _no_interface_chosen(variable: str, library: str, machine: Machine) -> Finding:
    several = len(machine.outward) > 1
    chooses = (
        "the one that the host's own name leads to" if library == "gloo" else "InfiniBand, then any but docker, lo"
    )
    return Finding(
        check=variable,
        state="note" if several else "good",
        found=f"not set: {library} takes {chooses}",
        why=f"{len(machine.outward)} interfaces lead outside, and not all may reach the others" if several else "",
        mend=f"if ranks do not meet: export {variable}={machine.outward[0].name} (the same network on all machines)"
        if several
        else "",
    )


def _infiniband(machine: Machine, variables: Mapping[str, str]) -> Finding:
    is_off = variables.get("NCCL_IB_DISABLE", "0") not in ("", "0")
    active = machine.active_ports
    if active and is_off:
        return Finding(
            check="NCCL_IB_DISABLE",
            state="fault",
            found=f"{variables['NCCL_IB_DISABLE']}, although {active[0].name} is active ({active[0].rate})",
            why="gradients between machines go through TCP, many times slower",
            mend="unset NCCL_IB_DISABLE, or set it to 0",
        )
    if active:
        ports = ", ".join(f"{port.name} ({port.rate})" for port in active)
        return Finding(check="NCCL_IB_DISABLE", state="good", found=f"InfiniBand is used: {ports}")
    there = "its ports are down" if machine.ports else "this machine has none"
    setting = f"NCCL_IB_DISABLE={variables['NCCL_IB_DISABLE']}" if "NCCL_IB_DISABLE" in variables else "not set"
    return Finding(
        check="NCCL_IB_DISABLE",
        state="note" if machine.ports else "good",
        found=f"{setting}; InfiniBand: {there}, so NCCL takes TCP either way",
        mend="ask who runs the cluster why the ports are down" if machine.ports else "",
    )


def _variable(
    variable: Variable, variables: Mapping[str, str], readers: Mapping[str, Sequence[str]], *, has_nccl: bool
) -> Finding:
    setting = f"{variable.name}={variables[variable.name]}"
    by = readers.get(variable.name, ())
    if by:
        is_harmful = variable.name == "NCCL_P2P_DISABLE" and variables[variable.name] not in ("", "0")
        return Finding(
            check=variable.name,
            state="note" if variable.better or is_harmful else "good",
            found=f"{setting}, read by {', '.join(by)}",
            why=f"it {variable.does}",
            mend=variable.better or ("unset it after the test" if is_harmful else ""),
        )
    if variable.better or has_nccl:
        return Finding(
            check=variable.name,
            state="note",
            found=f"{setting}, which neither torch nor NCCL reads here",
            why="it changes nothing",
            mend=variable.better or f"unset {variable.name}",
        )
    return Finding(
        check=variable.name,
        state="note",
        found=f"{setting}; this torch has no NCCL, so it changes nothing here",
        why=f"NCCL reads it on GPUs: it {variable.does}",
    )


def _timeout() -> Finding:
    return Finding(
        check="timeouts",
        state="good",
        found=OUR_TIMEOUT,
        why="torch would wait 30 minutes (gloo) or 10 (NCCL) for a rank that hangs; a dead one is noticed at once",
    )


def _own_name(machine: Machine) -> Finding:
    if machine.host_address and not machine.host_address.startswith("127."):
        return Finding(check="own name", state="good", found=f"{machine.host} is {machine.host_address}")
    leads = machine.host_address or "nowhere"
    return Finding(
        check="own name",
        state="note",
        found=f"{machine.host} leads to {leads}",
        why="gloo tells the others this address, so ranks of other machines would look for us at home",
        mend="for several machines: give the name its real address in /etc/hosts, or export GLOO_SOCKET_IFNAME",
    )


_FEW_BYTES = 1_000_000_000


def _memory(machine: Machine) -> list[Finding]:
    found = []
    shared = machine.shared_memory_bytes
    if shared is not None and shared < _FEW_BYTES:
        found.append(
            Finding(
                check="shared memory",
                state="note",
                found=f"{shared / 1e6:.0f} MB in the folder shm of /dev",
                why="GPUs that cannot write to each other exchange data there: NCCL ends with errors",
                mend="docker run --ipc=host, or --shm-size=8g",
            )
        )
    if machine.active_ports and machine.locked_memory_bytes is not None:
        found.append(
            Finding(
                check="locked memory",
                state="fault",
                found=f"a process may lock {machine.locked_memory_bytes / 1e6:.0f} MB",
                why="InfiniBand needs memory that is never moved: NCCL ends with `ibv_reg_mr failed`",
                mend="ulimit -l unlimited, or docker run --ulimit memlock=-1",
            )
        )
    return found


def _words(interfaces: Sequence[Interface]) -> str:
    return ", ".join(interface.words for interface in interfaces)
