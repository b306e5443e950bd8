"""Free memory and cores as a container or a shared machine leaves them, read from a laid-out file system."""

from __future__ import annotations

import pytest

from whet.estimate.hardware import free_memory_bytes, processor_name, say_if_busy, usable_cores

GB = 10**9
AVAILABLE = 20 * 2**30


@pytest.fixture
def machine(tmp_path):
    """A function that writes files below a root with 20 GiB free and four logical cores."""

    def write(files=(), siblings=("0", "1", "2", "3")):
        laid_out = {
            "proc/meminfo": f"MemTotal: 99 kB\nMemAvailable:   {AVAILABLE // 1024} kB\n",
            **{
                f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": f"{text}\n"
                for number, text in enumerate(siblings)
            },
            **dict(files),
        }
        for name, text in laid_out.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_without_a_limit_the_available_memory_is_free(machine):
    assert free_memory_bytes(machine()) == AVAILABLE


def test_nothing_is_known_where_there_are_no_such_files(tmp_path):
    assert free_memory_bytes(tmp_path) is None


def test_a_containers_limit_counts_without_what_can_be_dropped(machine):
    root = machine({
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/box/memory.max": f"{8 * GB}\n",
        "sys/fs/cgroup/box/memory.current": f"{3 * GB}\n",
        "sys/fs/cgroup/box/memory.stat": f"anon 5\nactive_file {GB // 2}\ninactive_file {GB // 2}\n",
    })  # fmt: skip
    assert free_memory_bytes(root) == 6 * GB


def test_the_tightest_of_nested_groups_counts_and_no_limit_is_none(machine):
    root = machine({
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/memory.max": f"{4 * GB}\n",
        "sys/fs/cgroup/outer/memory.current": f"{GB}\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        "sys/fs/cgroup/outer/inner/memory.current": f"{GB}\n",
    })  # fmt: skip
    assert free_memory_bytes(root) == 3 * GB


def test_inside_a_container_the_group_is_at_the_top(machine):
    root = machine({
        "proc/self/cgroup": "0::/a/path/of/the/host\n",
        "sys/fs/cgroup/memory.max": f"{5 * GB}\n",
        "sys/fs/cgroup/memory.current": f"{GB}\n",
    })  # fmt: skip
    assert free_memory_bytes(root) == 4 * GB


@pytest.mark.parametrize(("limit", "expected"), [(7 * GB, 6 * GB), (9223372036854771712, AVAILABLE)])
def test_version_one_of_control_groups_is_read_too(machine, limit, expected):
    root = machine({
        "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/box\n0::/\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{limit}\n",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GB}\n",
    })  # fmt: skip
    assert free_memory_bytes(root) == expected


def test_more_used_than_allowed_leaves_nothing(machine):
    root = machine({
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{GB}\n",
        "sys/fs/cgroup/memory.current": f"{2 * GB}\n",
    })  # fmt: skip
    assert free_memory_bytes(root) == 0


def test_hyperthreads_of_a_core_count_once(machine):
    assert usable_cores(machine(), {0, 1, 2, 3}) == 4
    assert usable_cores(machine(siblings=("0,2", "1,3", "0,2", "1,3")), {0, 1, 2, 3}) == 2
    assert usable_cores(machine(siblings=("0-1", "0-1", "2-3", "2-3")), {0, 1, 2}) == 2


def test_cores_that_are_not_described_count_each(tmp_path):
    assert usable_cores(tmp_path, {4, 5, 6}) == 3


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 4)]
)
def test_a_quota_of_processor_time_limits_the_cores(machine, quota, expected):
    root = machine({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": f"{quota}\n"})
    assert usable_cores(root, {0, 1, 2, 3}) == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", 4)])
def test_so_does_one_of_version_one(machine, quota, expected):
    root = machine({
        "proc/self/cgroup": "3:cpu,cpuacct:/box\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": f"{quota}\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
    })  # fmt: skip
    assert usable_cores(root, {0, 1, 2, 3}) == expected


def test_a_crowded_machine_is_told_and_a_calm_one_is_not():
    assert say_if_busy(2, 2.4) is None
    sentence = say_if_busy(2, 7.25)
    assert sentence is not None and "load 7.2 on 2 cores" in sentence and "train.threads=1" in sentence


def test_the_processor_is_called_what_its_maker_calls_it(machine, monkeypatch, tmp_path):
    root = machine({"proc/cpuinfo": "processor\t: 0\nmodel name\t: A: Fast One\nprocessor\t: 1\nmodel name\t: B\n"})
    assert processor_name(root) == "A: Fast One"
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert processor_name(tmp_path / "nothing here") == "aarch64"
