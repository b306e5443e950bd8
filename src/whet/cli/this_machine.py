"""What this machine has for a run, in a line: cores, free memory, GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cores and memory that a run may use."""

    num_cores: int
    free_bytes: int | None
    """of the host's memory; None: not known"""
    gpu_name: str | None
    gpu_free_bytes: int | None

    @property
    def usable_bytes(self) -> int | None:
        """Memory where the model will lie: the GPU's where there is one."""
        return self.free_bytes if self.gpu_name is None else self.gpu_free_bytes

    def sentence(self) -> str:
        """`2 cores, 6.1 GB free, no GPU`"""
        cores = f"{self.num_cores} core{'s' * (self.num_cores != 1)}"
        free = f", {self.free_bytes / 1e9:.1f} GB free" if self.free_bytes is not None else ""
        if self.gpu_name is None:
            return f"{cores}{free}, no GPU"
        gpu = f"{self.gpu_free_bytes / 1e9:.1f} GB free" if self.gpu_free_bytes is not None else "memory not known"
        return f"{self.gpu_name} with {gpu}, {cores}"


def look_at_machine() -> Machine:
    """The machine as it is now; torch is asked only where there is an NVIDIA driver."""
    from whet.estimate.hardware import free_memory_bytes, usable_cores

    name, gpu_free = _find_gpu() if NVIDIA_DRIVER.exists() else (None, None)
    return Machine(
        num_cores=usable_cores(), free_bytes=free_memory_bytes(), gpu_name=name, gpu_free_bytes=gpu_free
    )  # fmt: skip


def _find_gpu() -> tuple[str | None, int | None]:
    import torch

    if not torch.cuda.is_available():
        return None, None
    return torch.cuda.get_device_name(0), torch.cuda.mem_get_info(0)[0]
