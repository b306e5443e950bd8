"""Bytes that ranks send each other, and how long that takes: rings over NVLink in a node, InfiniBand between nodes.

A ring of n ranks moves a payload of S bytes in equal parts from neighbour to neighbour. Each rank sends

    all-gather, reduce-scatter    (n - 1) / n x S    in n - 1 hops          S: the whole, put together
    all-to-all                    (n - 1) / n x S    in n - 1 hops          S: what one rank has for all of them
    all-reduce                2 x (n - 1) / n x S    in 2 (n - 1) hops      a reduce-scatter, then an all-gather

(Patarasuk and Yuan, 2009: no algorithm sends less). Its time is that of its slowest link plus a latency for each hop.
Where several GPUs of a node take part, as many rings run side by side, each through the network card of one GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of what connects a GPU with the others."""

    bytes_per_second: float
    hop_seconds: float
    source: str
    """of the bandwidth"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The links of a cluster whose nodes are alike."""

    name: str
    gpus_per_node: int
    inside: Link
    """of one GPU to the others of its node"""
    between: Link
    """of one GPU to other nodes: its share of the node's network cards"""
    start_seconds: float
    """of any collective"""


RING_LATENCY = "NCCL's own model of a ring, protocol Simple (NVIDIA/nccl, src/graph/tuning.cc: hwLat, baseLat)"
"""source of the seconds of a hop and of the start of a collective"""
HOPPER_NODES = Network(
    name="8 GPUs a node, InfiniBand of 400 Gb/s for each",
    gpus_per_node=8,
    inside=Link(
        bytes_per_second=380e9,
        hop_seconds=3.4e-6,
        source="NVLink of an H100 SXM: 450 GB/s one way (data sheet: 900 both ways), of which 380 were measured "
        "(NVIDIA/nccl issue 1264)",
    ),
    between=Link(
        bytes_per_second=46e9,
        hop_seconds=14e-6,
        source="one ConnectX-7 of 50 GB/s for each GPU (DGX H100 data sheet), of which NCCL should reach 46 to 48 "
        "(NVIDIA/nccl-tests issue 290)",
    ),
    start_seconds=8.4e-6,
)
ETHERNET_NODES = replace(
    HOPPER_NODES,
    name="8 GPUs a node, Ethernet of 100 Gb/s for all of them",
    between=Link(
        bytes_per_second=100e9 / 8 / 8,
        hop_seconds=14e-6,
        source="the line rate, shared by eight GPUs; nothing is taken off for TCP",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Ranks that take part in a collective, equally many on each of their nodes."""

    num_ranks: int
    num_nodes: int = 1

    @property
    def ranks_per_node(self) -> int:
        return self.num_ranks // self.num_nodes


def ring_bytes(kind: Kind, payload_bytes: float, num_ranks: int) -> float:
    """What each rank sends, and receives. `payload_bytes`: of the whole, put together."""
    parts = (num_ranks - 1) / num_ranks
    return (2 if kind == "all_reduce" else 1) * parts * payload_bytes


def ring_seconds(kind: Kind, payload_bytes: float, group: Group, network: Network) -> float:
    """How long one collective takes when nothing else is sent."""
    if group.num_ranks == 1:
        return 0.0
    rounds = 2 if kind == "all_reduce" else 1
    hops = rounds * (group.num_ranks - 1)
    hops_between = rounds * (group.num_nodes - 1)
    latency = (hops - hops_between) * network.inside.hop_seconds + hops_between * network.between.hop_seconds
    sent = ring_bytes(kind, payload_bytes, group.num_ranks)
    return network.start_seconds + latency + sent / ring_bandwidth(group, network)


def ring_bandwidth(group: Group, network: Network) -> float:
    """Bytes per second that each rank of the group can send."""
    if group.num_nodes == 1:
        return network.inside.bytes_per_second
    out_of_a_node = group.ranks_per_node * network.between.bytes_per_second
    if group.ranks_per_node == 1:
        return out_of_a_node
    return min(network.inside.bytes_per_second, out_of_a_node)
