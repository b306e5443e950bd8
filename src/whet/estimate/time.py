"""How long a step takes on a GPU by its data sheet (a roofline), and on any machine by a rate that was measured there.

    one rank computes    the longer of operations / (peak x the share of it that is reached) and bytes / bandwidth
    operations           of a token in forward and backward pass (estimate/scale.py) x tokens of the rank
    bytes                every pass reads the weights once for each of forward, backward, and what is computed anew,
                         and writes and reads what is kept for the backward pass; an update reads weight, gradient and
                         both moments of what trains and writes three of them
    network              collectives of the step as rings (estimate/traffic.py): the longer of computing and what runs
                         beside it, then what waits

Validation, answers in training, the loading of rows and stragglers are not in it. What training waits for a checkpoint
stands apart, and is known only where the disk was tried:

    a checkpoint         a copy in the host's memory, for which all wait; then it is written, hashed and synced beside
                         the step that follows, and the step after that one waits for what is left (train/saves.py)
"""

from __future__ import annotations

from dataclasses import dataclass

from whet.estimate.devices import Device, network_of
from whet.estimate.memory import FLOAT32_BYTES, Job, Pass, Recompute, saved_layer_bytes
from whet.estimate.scale import Rows, operations_per_token
from whet.estimate.traffic import Sharing, calls, tensor_calls

ASSUMED_SHARES = (0.25, 0.50)
"""of a GPU's peak that training reaches, assumed: 0.41 was published of LoRA on Llama-3-8B in PyTorch (NeMo AutoModel,
performance summary), 0.50 to 0.56 of Megatron (NVIDIA dgxc-benchmarking v25.02); small models and short passes reach
less"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one rank computes in a step."""

    job: Job
    rows: Rows
    """of one pass"""
    largest: Pass
    recompute: Recompute
    num_passes: int
    num_tensor_ranks: int = 1

    @property
    def operations(self) -> float:
        """Floating-point operations, forward and backward."""
        tokens = self.num_passes * self.rows.tokens_per_pass
        return tokens * operations_per_token(self.job, self.rows, self.recompute) / self.num_tensor_ranks

    @property
    def moved_bytes(self) -> float:
        """Between the memory of the device and its processors, at the least."""
        job = self.job
        reads = {"none": 2, "norms": 2, "mlp": 3, "full": 3}[self.recompute]
        kept = 2 * job.num_layers * saved_layer_bytes(job, self.largest, self.recompute)
        update = 7 * FLOAT32_BYTES * job.num_trainable
        return (self.num_passes * (reads * job.num_base * job.compute_bytes + kept) + update) / self.num_tensor_ranks


def step_seconds(work: Work, sharing: Sharing, device: Device, *, reached_share: float) -> float:
    """Of one optimizer step, by the data sheet of `device`."""
    network = network_of(device)
    made = calls(work.job, sharing, passes=work.num_passes)
    if work.num_tensor_ranks > 1:
        rows = tensor_calls(work.job, work.rows.tokens_per_pass, work.num_tensor_ranks)
        made = (*made, *(call for call in rows for _ in range(work.num_passes)))
    beside = sum(call.seconds(network) for call in made if call.is_overlapped)
    waits = sum(call.seconds(network) for call in made if not call.is_overlapped)
    computing = max(
        work.operations / (device.flops * reached_share), work.moved_bytes / device.memory_bytes_per_second
    )  # fmt: skip
    return max(computing, beside) + waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a few real steps on this machine took."""

    operations_per_second: float
    """of one rank, in forward and backward passes"""
    pass_seconds: float
    """the median of a measured step's passes"""
    update_seconds: float
    """of an update of all that one rank trains"""
    num_steps: int

    def step_seconds(self, work: Work) -> float:
        """Of a step of `work` on the same machine."""
        return work.operations / self.operations_per_second + self.update_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePace:
    """How fast a machine saves; seconds for each byte of a checkpoint."""

    copy_seconds: float
    write_seconds: float
    """hashed and synced to the disk"""

    def waits(self, num_bytes: float, step_seconds: float) -> tuple[float, float]:
        """Seconds that a checkpoint adds to training: where the step beside it costs it nothing, and where it costs
        the step as much as it takes."""
        copied, written = num_bytes * self.copy_seconds, num_bytes * self.write_seconds
        return copied + max(0.0, written - step_seconds), copied + written
