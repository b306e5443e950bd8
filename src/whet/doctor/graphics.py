"""torch, the driver and the GPUs: whether they know each other, what memory there is, how the cards are connected."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from whet.doctor.finding import Finding

DRIVER = Path("/proc/driver/nvidia/version")
_BUSY_SHARE = 0.1
"""of a card's memory: more than that is another program's"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU as torch sees it."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int]
    """(9, 0) is Hopper"""
    reaches: tuple[int, ...] = ()
    """numbers of the cards whose memory this one reads and writes itself, without the way through the host"""

    @property
    def words(self) -> str:
        """`NVIDIA H200, 139.0 of 140.0 GB free, compute capability 9.0`"""
        major, minor = self.capability
        free = f"{self.free_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB free"
        return f"{self.name}, {free}, compute capability {major}.{minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphics:
    """What torch and the system know of GPUs."""

    torch_version: str
    cuda: str | None
    """version of CUDA that torch was built with; None: a build for CPUs"""
    driver: str | None
    """version of NVIDIA's driver; None: none is loaded"""
    visible: str | None
    """CUDA_VISIBLE_DEVICES"""
    nccl: str | None = None
    cards: tuple[Card, ...] = ()
    complaint: str = ""
    """what torch said when it looked for cards"""
    supported: tuple[str, ...] = ()
    """architectures that torch has code for: `sm_90`"""


def look_at_graphics(driver: Path = DRIVER) -> Graphics:
    """This machine's; imports torch."""
    import os

    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        is_there = torch.cuda.is_available()
    cards = tuple(_card(number) for number in range(torch.cuda.device_count())) if is_there else ()
    has_nccl = is_there and torch.distributed.is_nccl_available()
    return Graphics(
        torch_version=torch.__version__,
        cuda=torch.version.cuda,
        driver=_driver_version(driver),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        nccl=".".join(map(str, torch.cuda.nccl.version())) if has_nccl else None,
        cards=cards,
        complaint=str(said[0].message).splitlines()[0] if said else "",
        supported=tuple(torch.cuda.get_arch_list()) if is_there else (),
    )  # fmt: skip


def _card(number: int) -> Card:
    import torch

    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    others = (other for other in range(torch.cuda.device_count()) if other != number)
    return Card(
        name=properties.name,
        total_bytes=total,
        free_bytes=free,
        capability=(properties.major, properties.minor),
        reaches=tuple(other for other in others if torch.cuda.can_device_access_peer(number, other)),
    )


def _driver_version(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
    return found[1] if found else "of unknown version"


def check_graphics(graphics: Graphics) -> list[Finding]:
    """torch and CUDA, the driver, each card, how they are connected."""
    return [_torch(graphics), _driver(graphics), *_cards(graphics), *_topology(graphics), *_nccl(graphics)]


def _torch(graphics: Graphics) -> Finding:
    built = f"built for CUDA {graphics.cuda}" if graphics.cuda else "built for CPUs"
    found = f"{graphics.torch_version}, {built}"
    if graphics.driver and not graphics.cuda:
        return Finding(
            check="torch",
            state="fault",
            found=f"{found}, although there is an NVIDIA driver ({graphics.driver})",
            why="the GPU stays unused: training takes many times as long",
            mend="pip install --force-reinstall torch, from an index with builds for CUDA",
        )
    return Finding(check="torch", state="good", found=found, why="which hardware can be used follows from the build")


def _driver(graphics: Graphics) -> Finding:
    why = "torch reaches a GPU through the driver only"
    if graphics.driver is None:
        return Finding(
            check="GPU driver",
            state="note" if graphics.cuda else "good",
            found="none, so everything runs on the CPU",
            why=why,
            mend="if there is a GPU: install its driver; in a container: docker run --gpus all"
            if graphics.cuda
            else "",
        )
    if graphics.cuda and not graphics.cards:
        return _no_card(graphics, graphics.driver)
    return Finding(check="GPU driver", state="good", found=graphics.driver, why=why)


def _no_card(graphics: Graphics, driver: str) -> Finding:
    """There is a driver, and torch was built for it, but finds nothing."""
    if graphics.visible is not None and graphics.visible.strip() in ("", "-1"):
        return Finding(
            check="GPU driver",
            state="note",
            found=f"{driver}, but CUDA_VISIBLE_DEVICES={graphics.visible}",
            why="it hides every GPU, so everything runs on the CPU",
            mend="unset CUDA_VISIBLE_DEVICES",
        )
    complaint = f": {graphics.complaint}" if graphics.complaint else ""
    return Finding(
        check="GPU driver",
        state="fault",
        found=f"{driver}, but torch finds no GPU{complaint}",
        why="training runs on the CPU and takes many times as long",
        mend="see whether nvidia-smi works; if it does: a newer driver, or a torch that was built for an older CUDA",
    )


def _cards(graphics: Graphics) -> list[Finding]:
    return [_card_found(number, card, graphics.supported) for number, card in enumerate(graphics.cards)]


def _card_found(number: int, card: Card, supported: tuple[str, ...]) -> Finding:
    major, minor = card.capability
    if supported and not any(each.startswith(f"sm_{major}") for each in supported):
        return Finding(
            check=f"GPU {number}",
            state="fault",
            found=card.words,
            why=f"this torch has no code for sm_{major}{minor}, only for {', '.join(supported)}",
            mend="install a torch that was built for this GPU, or choose another with CUDA_VISIBLE_DEVICES",
        )
    is_free = card.free_bytes >= (1 - _BUSY_SHARE) * card.total_bytes
    return Finding(
        check=f"GPU {number}",
        state="good" if is_free else "note",
        found=card.words,
        why="weights, optimizer and the rows of a pass have to fit into what is free",
        mend="" if is_free else "nvidia-smi shows which program holds the rest",
    )


def _topology(graphics: Graphics) -> list[Finding]:
    num = len(graphics.cards)
    if num < 2:
        return []
    missing = [
        f"{number} to {other}"
        for number, card in enumerate(graphics.cards)
        for other in range(num)
        if other != number and other not in card.reaches
    ]
    are_alike = len({(card.name, card.total_bytes) for card in graphics.cards}) == 1
    words = f"{num} GPUs reach each other's memory" if not missing else f"not directly: {', '.join(missing[:8])}"
    return [
        Finding(
            check="topology",
            state="good" if not missing and are_alike else "note",
            found=words if are_alike else f"{words}; they are not alike",
            why="what goes through the host's memory is many times slower; the slowest and smallest card counts",
            mend="" if not missing and are_alike else "nvidia-smi topo -m shows the ways; CUDA_VISIBLE_DEVICES chooses",
        )
    ]


def _nccl(graphics: Graphics) -> list[Finding]:
    if not graphics.cards:
        return []
    return [
        Finding(
            check="NCCL",
            state="good" if graphics.nccl else "fault" if len(graphics.cards) > 1 else "note",
            found=graphics.nccl or "this torch has none",
            why="GPUs exchange gradients through it",
            mend="" if graphics.nccl else "install a build of torch for Linux with CUDA",
        )
    ]
