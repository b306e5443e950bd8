"""LoRA settings under PEFT's names, as every tool spells them with a prefix of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from whet.recipe.importers.sheet import Sheet

_ALL = ("all", "all-linear", "all_linear")
_ALL_LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
_PEFT_TARGETS = ["q_proj", "v_proj"]
_SAME_START = ("true", "default", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraNames:
    """Keys of the foreign file, and the tool's defaults."""

    rank: str
    alpha: str
    dropout: str
    targets: str
    rslora: str
    init: str = "init_lora_weights"
    default_rank: int
    default_alpha: float | None
    """None: twice the rank"""
    default_dropout: float
    default_targets: list[str] | str | None = None
    """None: PEFT's own for Llama, q_proj and v_proj"""


def read_lora(sheet: Sheet, names: LoraNames) -> None:
    """adapter.rank, alpha (with the factor of rank-stabilised LoRA), dropout and targets."""
    sheet.put("adapter.method", "lora")
    sheet.map_whole(names.rank, "adapter.rank", names.default_rank)
    rank = sheet.whole(names.rank, names.default_rank)
    _read_alpha(sheet, names, rank)
    sheet.map_number(names.dropout, "adapter.dropout", names.default_dropout)
    if "targets" not in sheet.tree["adapter"]:
        _read_targets(sheet, names)
    if sheet.text(names.init).lower() in _SAME_START:
        sheet.drop(names.init, "the adapter starts so here too: A random, B zero")


def _read_alpha(sheet: Sheet, names: LoraNames, rank: int) -> None:
    default = 2.0 * rank if names.default_alpha is None else names.default_alpha
    alpha = sheet.number(names.alpha, default)
    if not sheet.boolean(names.rslora):
        sheet.drop(names.rslora, "not asked for: the scale is alpha / rank")
        sheet.map_number(names.alpha, "adapter.alpha", default)
        return
    # alpha / sqrt(r) = (alpha x sqrt(r)) / r, arXiv:2312.03732 equation 4
    scaled = round(alpha * math.sqrt(rank), 6)
    said = f"{alpha:g} x sqrt({rank}): rank-stabilised LoRA's scale {scaled / rank:.4g}, written as alpha / rank"
    sheet.map(names.rslora, "adapter.alpha", scaled, said)
    sheet.map(names.alpha, "adapter.alpha", scaled, said)
    sheet.put("adapter.alpha", scaled)


def _read_targets(sheet: Sheet, names: LoraNames) -> None:
    targets = sheet.texts(names.targets)
    if [t.lower() for t in targets] in ([word] for word in _ALL) or set(targets) == _ALL_LINEAR:
        sheet.map(names.targets, "adapter.targets", "all-linear")
    elif targets:
        sheet.map(names.targets, "adapter.targets", targets)
    else:
        sheet.drop(names.targets, "it is empty: the tool's default")
        sheet.default("adapter.targets", names.default_targets or _PEFT_TARGETS)
