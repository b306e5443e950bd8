"""The table of GPUs: figures that make sense, names that drivers use, links that reach less than their rate."""

from __future__ import annotations

import pytest

from whet.errors import RecipeError
from whet.estimate.devices import DEVICES, find_device, network_of, recognise
from whet.estimate.scale import H100, H200


def test_figures_are_in_bytes_and_operations_a_second_and_have_a_source():
    for name, device in DEVICES.items():
        assert 20e9 <= device.memory_bytes <= 200e9, name
        assert 50e12 <= device.flops <= 3e15, name
        assert 0.2e12 <= device.memory_bytes_per_second <= 9e12, name
        assert 30e9 <= device.link_bytes_per_second <= 1e12, name
        assert device.source and device.link, name


def test_the_published_figures_of_an_h100_and_an_h200():
    assert (DEVICES["h100"].memory_bytes, DEVICES["h100"].flops) == (80e9, 989e12)
    assert (DEVICES["h200"].memory_bytes, DEVICES["h200"].memory_bytes_per_second) == (141e9, 4.8e12)
    assert DEVICES["h100-pcie"].flops == 756e12
    assert (H100.flops, H200.memory_bytes) == (989e12, 141e9)  # docs/scale.md is computed from the same table


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA A100-SXM4-40GB", "a100-40gb"), ("NVIDIA A10", "a10"),
        ("NVIDIA L4", "l4"), ("NVIDIA L40S", "l40s"), ("NVIDIA GeForce RTX 4090", "rtx4090"), ("NVIDIA B200", "b200"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"), ("NVIDIA A100 80GB PCIe", "a100"), ("NVIDIA A40", "a40"),
    ],
)  # fmt: skip
def test_a_driver_s_name_finds_its_gpu(said, name):
    assert recognise(said) is DEVICES[name]


@pytest.mark.parametrize(
    "said",
    [
        "NVIDIA GH200 480GB", "NVIDIA GB200", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 4090 Laptop GPU", "Tesla T4",
        "NVIDIA L40", "NVIDIA RTX A4000", "NVIDIA A10G", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A100X", "NVIDIA RTX 6000 Ada Generation with Max-Q Design",
    ],
)  # fmt: skip
def test_a_gpu_with_other_figures_is_not_taken_for_one_of_the_table(said):
    assert recognise(said) is None


def test_an_unknown_name_is_answered_with_all_names():
    assert find_device("H200") is DEVICES["h200"]
    with pytest.raises(RecipeError, match="h100-pcie"):
        find_device("h300")


def test_ranks_reach_less_of_a_link_than_its_data_sheet_says():
    for device in DEVICES.values():
        assert 0.5 < network_of(device).inside.bytes_per_second / device.link_bytes_per_second < 1
