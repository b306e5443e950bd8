"""GPUs that an estimate can be made for: memory, products per second, bandwidths, each from the maker's data sheet."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from whet.errors import RecipeError
from whet.estimate.network import HOPPER_NODES, Link, Network

CONTEXT_BYTES = 500_000_000
"""of a GPU's memory that driver, CUDA context and loaded kernels take (assumed)"""
USABLE_SHARE = 0.95
"""of a GPU's memory that a run may fill; the rest is the driver's, and holes between blocks (assumed)"""
LINK_SHARE = 380 / 450
"""of a link's rate that reaches ranks: measured on NVLink of an H100 (estimate/network.py), assumed elsewhere"""
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU as its maker describes it."""

    name: str
    memory_bytes: float
    flops: float
    """dense bfloat16 products and sums per second, added up in float32"""
    memory_bytes_per_second: float
    link: str
    """to the other GPUs of its node"""
    link_bytes_per_second: float
    """of it, one way"""
    source: str


_NVLINK_4, _NVLINK_3 = "NVLink 4, 900 GB/s both ways", "NVLink 3, 600 GB/s both ways"
_PCIE_4, _PCIE_5 = "PCIe 4.0 x16, 64 GB/s both ways", "PCIe 5.0 x16, 128 GB/s both ways"

_H100 = Device(
    name="H100 SXM 80 GB", memory_bytes=80e9, flops=989e12, memory_bytes_per_second=3.35e12,
    link=_NVLINK_4, link_bytes_per_second=450e9, source="NVIDIA H100 data sheet (1,979 TFLOP/s with sparsity, halved)",
)  # fmt: skip
_A100 = Device(
    name="A100 SXM 80 GB", memory_bytes=80e9, flops=312e12, memory_bytes_per_second=2.039e12,
    link=_NVLINK_3, link_bytes_per_second=300e9, source="NVIDIA A100 data sheet",
)  # fmt: skip
_L40S = Device(
    name="L40S 48 GB", memory_bytes=48e9, flops=362e12, memory_bytes_per_second=864e9,
    link=_PCIE_4, link_bytes_per_second=32e9, source="NVIDIA L40S data sheet",
)  # fmt: skip

DEVICES: dict[str, Device] = {
    "b200": Device(
        name="B200 180 GB", memory_bytes=180e9, flops=2.25e15, memory_bytes_per_second=8e12,
        link="NVLink 5, 1,800 GB/s both ways", link_bytes_per_second=900e9,
        source="NVIDIA DGX B200 data sheet, an eighth of it (36 PFLOP/s in 16 bits with sparsity, halved)",
    ),
    "h200": replace(
        _H100, name="H200 SXM 141 GB", memory_bytes=141e9, memory_bytes_per_second=4.8e12,
        source="NVIDIA H200 data sheet (1,979 TFLOP/s with sparsity, halved)",
    ),
    "h100": _H100,
    "h100-pcie": replace(
        _H100, name="H100 PCIe 80 GB", flops=756e12, memory_bytes_per_second=2.0e12, link=_PCIE_5,
        link_bytes_per_second=64e9, source="NVIDIA H100 data sheet (1,513 TFLOP/s with sparsity, halved)",
    ),
    "a100": _A100,
    "a100-40gb": replace(_A100, name="A100 SXM 40 GB", memory_bytes=40e9, memory_bytes_per_second=1.555e12),
    "l40s": _L40S,
    "l4": replace(
        _L40S, name="L4 24 GB", memory_bytes=24e9, flops=121e12, memory_bytes_per_second=300e9,
        source="NVIDIA L4 data sheet (242 TFLOP/s with sparsity, halved)",
    ),
    "a40": replace(
        _L40S, name="A40 48 GB", flops=149.7e12, memory_bytes_per_second=696e9, source="NVIDIA A40 data sheet"
    ),
    "a10": replace(
        _L40S, name="A10 24 GB", memory_bytes=24e9, flops=125e12, memory_bytes_per_second=600e9,
        source="NVIDIA A10 data sheet",
    ),
    "rtx5090": Device(
        name="GeForce RTX 5090 32 GB", memory_bytes=32e9, flops=209.5e12, memory_bytes_per_second=1.792e12,
        link=_PCIE_5, link_bytes_per_second=64e9, source="NVIDIA RTX Blackwell GPU architecture, appendix",
    ),
    "rtx4090": replace(
        _L40S, name="GeForce RTX 4090 24 GB", memory_bytes=24e9, flops=165.2e12, memory_bytes_per_second=1.008e12,
        source="NVIDIA Ada GPU architecture, appendix",
    ),
    "rtx3090": replace(
        _L40S, name="GeForce RTX 3090 24 GB", memory_bytes=24e9, flops=71e12, memory_bytes_per_second=936e9,
        source="NVIDIA Ampere GA102 GPU architecture, appendix",
    ),
}  # fmt: skip
"""name of --gpu -> the GPU"""


_OTHERS = frozenset({"laptop", "max", "nvl", "mig", "ti", "super", "d"})
"""words of a driver's name: a GPU like one of the table with other figures (RTX 3090 Ti, RTX 4090 D, a part by MIG)"""


def find_device(name: str) -> Device:
    """The GPU of the table; RecipeError with all names for another."""
    if (device := DEVICES.get(name.lower())) is None:
        raise RecipeError(f"is no GPU of the table ({name})", where="--gpu", mend=f"one of {', '.join(DEVICES)}")
    return device


def recognise(driver_name: str) -> Device | None:
    """The GPU that the driver calls so (`NVIDIA H200`, `NVIDIA A100-SXM4-80GB`); None where the table has none."""
    words = set(re.findall(r"[a-z0-9]+", driver_name.lower().replace("rtx ", "rtx")))
    if words & _OTHERS:
        return None
    if {"a100", "40gb"} <= words:
        return DEVICES["a100-40gb"]
    if {"h100", "pcie"} <= words:
        return DEVICES["h100-pcie"]
    return next((device for key, device in DEVICES.items() if key in words), None)


def network_of(device: Device) -> Network:
    """Nodes of eight of these; between nodes InfiniBand of 400 Gb/s for each GPU (assumed of every GPU)."""
    inside = Link(
        bytes_per_second=LINK_SHARE * device.link_bytes_per_second,
        hop_seconds=HOPPER_NODES.inside.hop_seconds,
        source=f"{device.link} ({device.source}), of which {LINK_SHARE:.0%} is reached",
    )
    return replace(HOPPER_NODES, name=f"{GPUS_PER_NODE} x {device.name} a node", inside=inside)
