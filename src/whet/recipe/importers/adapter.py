"""LoRA settings under PEFT's names, as every tool spells them with a prefix of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from whet.recipe.importers.sheet import Sheet

_ALL = ("all", "all-linear", "all_linear")
_ALL_LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
_PEFT_TARGETS = ["q_proj", "v_proj"]
_SAME_START = ("true", "default")
_STARTS = ("gaussian", "orthogonal", "pissa", "olora", "eva", "corda", "lora_ga")
"""PEFT's names, which are whet's too; `pissa_niter_16` is whet's pissa_fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraNames:
    """Keys of the foreign file, and the tool's defaults."""

    rank: str
    alpha: str
    dropout: str
    targets: str
    rslora: str
    dora: str = "use_dora"
    init: str = "init_lora_weights"
    lr_ratio: str = "loraplus_lr_ratio"
    default_rank: int
    default_alpha: float | None
    """None: twice the rank"""
    default_dropout: float
    default_targets: list[str] | str | None = None
    """None: PEFT's own for Llama, q_proj and v_proj"""
    default_init: str = "default"

    def every_key(self) -> tuple[str, ...]:
        """Every key of the foreign file that means something only where there is an adapter."""
        return (self.rank, self.alpha, self.dropout, self.targets, self.rslora, self.dora, self.init, self.lr_ratio)


def read_lora(sheet: Sheet, names: LoraNames) -> None:
    """The whole section `adapter`."""
    sheet.put("adapter.method", "lora")
    sheet.map_whole(names.rank, "adapter.rank", names.default_rank)
    rank = sheet.whole(names.rank, names.default_rank)
    sheet.map_number(names.alpha, "adapter.alpha", 2 * rank if names.default_alpha is None else names.default_alpha)
    sheet.map_number(names.dropout, "adapter.dropout", names.default_dropout)
    if "targets" not in sheet.tree["adapter"]:
        _read_targets(sheet, names)
    _read_start(sheet, names)
    if sheet.boolean(names.rslora):
        sheet.map(names.rslora, "adapter.rslora", True)
    else:
        sheet.drop(names.rslora, "not asked for: the scale is alpha / rank")
    if sheet.boolean(names.dora):
        sheet.map(names.dora, "adapter.method", "dora")
    else:
        sheet.drop(names.dora, "not asked for")
    sheet.map_number(names.lr_ratio, "adapter.lr_ratio", None)


def without_adapter(sheet: Sheet, names: LoraNames, reason: str) -> None:
    """The file trains all weights: what it says of an adapter has no effect."""
    for key in names.every_key():
        sheet.drop(key, reason)


def _read_start(sheet: Sheet, names: LoraNames) -> None:
    word = sheet.text(names.init).lower()
    if word in _SAME_START:
        sheet.drop(names.init, "the adapter starts so here too: A random, B zero")
    elif word in _STARTS:
        sheet.map(names.init, "adapter.init", word)
    elif re.fullmatch(r"pissa_niter_\d+", word):
        sheet.map(names.init, "adapter.init", "pissa_fast", "the randomised SVD")
    elif word:
        sheet.refuse(names.init, f"starts are default, {', '.join(_STARTS)}: default is taken")
    elif names.default_init != "default":
        sheet.drop(names.init, "it is empty: the tool's default")
        sheet.default("adapter.init", names.default_init)


def _read_targets(sheet: Sheet, names: LoraNames) -> None:
    targets = sheet.texts(names.targets)
    if [t.lower() for t in targets] in ([word] for word in _ALL) or set(targets) == _ALL_LINEAR:
        sheet.map(names.targets, "adapter.targets", "all-linear")
    elif targets:
        sheet.map(names.targets, "adapter.targets", targets)
    else:
        sheet.drop(names.targets, "it is empty: the tool's default")
        sheet.default("adapter.targets", names.default_targets or _PEFT_TARGETS)
