import pytest

from whet.doctor.dist import check_distributed, matches
from whet.doctor.machine import Interface, Machine, Port, look_at_machine
from whet.doctor.readers import libraries, readers

LOOPBACK = Interface(name="lo", is_up=True, address="127.0.0.1")
ENS5 = Interface(name="ens5", is_up=True, address="10.0.0.4", megabits_per_second=25_000)
DOCKER = Interface(name="docker0", is_up=True, address="172.17.0.1")
INFINIBAND = Port(name="mlx5_0:1", is_active=True, rate="400 Gb/sec (4X NDR)")


def machine(*interfaces: Interface, **others) -> Machine:
    usual = {
        "ports": (), "shared_memory_bytes": 8 * 10**9, "locked_memory_bytes": None, "host": "node-0",
        "host_address": "10.0.0.4",
    }  # fmt: skip
    return Machine(interfaces=(LOOPBACK, *interfaces), **(usual | others))


def findings(where: Machine, variables=None, read_by=None, *, has_nccl=True):
    found = check_distributed(where, variables or {}, read_by or {}, has_nccl=has_nccl)
    return {finding.check: finding for finding in found}


def test_a_plain_machine_with_nothing_set_has_no_faults():
    found = findings(machine(ENS5, DOCKER))
    assert {each.state for each in found.values()} == {"good"}
    assert "ens5 (10.0.0.4, 25 Gb/s)" in found["network interfaces"].found


def test_the_guides_eth0_on_a_machine_without_it_is_a_fault_with_the_right_name():
    found = findings(machine(ENS5, DOCKER), {"NCCL_SOCKET_IFNAME": "eth0"})["NCCL_SOCKET_IFNAME"]
    assert found.state == "fault" and "eth0, which names no interface of this machine" in found.found
    assert found.mend.startswith("export NCCL_SOCKET_IFNAME=ens5, or unset")


def test_an_interface_that_is_down_is_a_fault_and_several_are_a_note():
    down = Interface(name="eth0", is_up=False)
    assert findings(machine(down, ENS5), {"GLOO_SOCKET_IFNAME": "eth0"})["GLOO_SOCKET_IFNAME"].state == "fault"
    second = Interface(name="eth1", is_up=True, address="192.168.0.4")
    found = findings(machine(second, ENS5))["NCCL_SOCKET_IFNAME"]
    assert found.state == "note" and "export NCCL_SOCKET_IFNAME=eth1" in found.mend


def test_the_loopback_as_the_chosen_interface_is_only_right_for_one_machine():
    assert findings(machine(ENS5), {"GLOO_SOCKET_IFNAME": "lo"})["GLOO_SOCKET_IFNAME"].state == "note"
    assert findings(machine(), {"GLOO_SOCKET_IFNAME": "lo"})["GLOO_SOCKET_IFNAME"].state == "good"


@pytest.mark.parametrize(
    ("setting", "name", "expected"),
    [("eth", "eth0", True), ("=eth", "eth0", False), ("=eth0,ib0", "ib0", True), ("^docker,lo", "docker0", False),
     ("^docker,lo", "ens5", True), ("eth1,ib", "ib0", True)],
)  # fmt: skip
def test_nccl_s_own_way_to_name_interfaces_is_understood(setting, name, expected):
    assert matches(setting, name) is expected


def test_infiniband_that_is_there_and_switched_off_is_a_fault():
    found = findings(machine(ENS5, ports=(INFINIBAND,)), {"NCCL_IB_DISABLE": "1"})
    assert found["NCCL_IB_DISABLE"].state == "fault" and "400 Gb/sec" in found["NCCL_IB_DISABLE"].found
    assert findings(machine(ENS5, ports=(INFINIBAND,)), {"NCCL_IB_DISABLE": "0"})["NCCL_IB_DISABLE"].state == "good"
    without = findings(machine(ENS5), {"NCCL_IB_DISABLE": "0"})["NCCL_IB_DISABLE"]
    assert without.state == "good" and "this machine has none" in without.found
    locked = findings(machine(ENS5, ports=(INFINIBAND,), locked_memory_bytes=65536))["locked memory"]
    assert locked.state == "fault" and "ulimit -l unlimited" in locked.mend


def test_a_variable_that_nobody_reads_is_called_so_with_what_counts_instead():
    found = findings(machine(ENS5), {"NCCL_TIMEOUT": "1800"})["NCCL_TIMEOUT"]
    assert found.state == "note" and "NCCL_TIMEOUT=1800, which neither torch nor NCCL reads" in found.found
    assert "parallel.timeout_seconds" in found.mend


def test_an_old_name_that_is_still_read_is_noted_and_a_useful_one_is_good():
    read_by = {"NCCL_ASYNC_ERROR_HANDLING": ["libtorch_cpu.so"], "NCCL_DEBUG": ["libnccl.so.2"]}
    found = findings(machine(ENS5), {"NCCL_ASYNC_ERROR_HANDLING": "1", "NCCL_DEBUG": "INFO"}, read_by)
    assert found["NCCL_ASYNC_ERROR_HANDLING"].state == "note"
    assert "TORCH_NCCL_ASYNC_ERROR_HANDLING" in found["NCCL_ASYNC_ERROR_HANDLING"].mend
    assert found["NCCL_DEBUG"].state == "good" and "libnccl.so.2" in found["NCCL_DEBUG"].found
    elsewhere = findings(machine(ENS5), {"NCCL_DEBUG": "INFO"}, has_nccl=False)["NCCL_DEBUG"]
    assert "this torch has no NCCL" in elsewhere.found


def test_a_test_setting_that_was_left_on_is_noted():
    read_by = {"NCCL_P2P_DISABLE": ["libnccl.so.2"]}
    found = findings(machine(ENS5), {"NCCL_P2P_DISABLE": "1"}, read_by)["NCCL_P2P_DISABLE"]
    assert found.state == "note" and found.mend == "unset it after the test"


def test_small_shared_memory_and_a_name_that_leads_home_are_noted():
    found = findings(machine(ENS5, shared_memory_bytes=64 * 2**20, host_address="127.0.1.1"))
    assert "--ipc=host" in found["shared memory"].mend
    assert "node-0 leads to 127.0.1.1" in found["own name"].found and found["own name"].state == "note"


def test_interfaces_and_ports_are_read_as_the_kernel_shows_them(tmp_path):
    eth = tmp_path / "sys/class/net/eth9"
    port = tmp_path / "sys/class/infiniband/mlx5_0/ports/1"
    for folder in (eth, port, tmp_path / "sys/class/net/ib0"):
        folder.mkdir(parents=True)
    (eth / "operstate").write_text("up\n")
    (eth / "speed").write_text("10000\n")
    (port / "state").write_text("4: ACTIVE\n")
    (port / "rate").write_text("400 Gb/sec (4X NDR)\n")
    found = look_at_machine(tmp_path)
    assert [(each.name, each.is_up, each.megabits_per_second) for each in found.interfaces] == [
        ("eth9", True, 10_000),
        ("ib0", False, None),
    ]
    assert found.ports == (INFINIBAND,) and found.shared_memory_bytes is None
    here = {interface.name: interface for interface in look_at_machine().interfaces}
    assert here["lo"].is_up and here["lo"].address == "127.0.0.1" and not here["lo"].leads_outside


def test_a_variable_is_read_where_its_whole_name_stands_in_a_library(tmp_path):
    library = tmp_path / "libfast.so"
    library.write_bytes(b"\x00TORCH_NCCL_BLOCKING_WAIT\x00NCCL_DEBUG\x00text NCCL_TIMEOUT is mentioned\x00")
    found = readers(["NCCL_DEBUG", "NCCL_BLOCKING_WAIT", "NCCL_TIMEOUT"], [library])
    assert found == {"NCCL_DEBUG": ["libfast.so"], "NCCL_BLOCKING_WAIT": [], "NCCL_TIMEOUT": []}
    assert readers([], [library]) == {}


@pytest.mark.slow
def test_the_installed_torch_reads_gloos_interface_and_no_timeout_of_nccl():
    found = readers(["GLOO_SOCKET_IFNAME", "NCCL_TIMEOUT"], libraries())
    assert "libtorch_cpu.so" in found["GLOO_SOCKET_IFNAME"] and found["NCCL_TIMEOUT"] == []
