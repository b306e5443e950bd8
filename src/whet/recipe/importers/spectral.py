"""The section `trainer` of lora-ns: its spectral trainer is whet's callback `spectral`."""

from __future__ import annotations

from typing import Any

from whet.recipe.importers.sheet import Sheet
from whet.recipe.schema import STARTS_INSIDE_BASE

SPECTRAL_TRAINER = "SpectralRefactorTrainer"
_UNUSED = ("refactor_every", "warmup_steps", "cooldown_steps", "refactor_mode", "balance_lambda",
           "preserve_momentum", "clear_momentum", "damping_eps", "clip_min_sigma")  # fmt: skip


def read_trainer(sheet: Sheet) -> None:
    """`callbacks`, once the section `adapter` is known."""
    name = sheet.text("trainer.name", "Trainer")
    if name == SPECTRAL_TRAINER:
        sheet.map("trainer.name", "callbacks.0.name", "spectral")
        _read_settings(sheet)
        return
    if name == "Trainer":
        sheet.drop("trainer.name", "the ordinary trainer")
    else:
        sheet.refuse("trainer.name", "trainers are Trainer and SpectralRefactorTrainer: the ordinary one is taken")
    for key in _UNUSED:
        sheet.drop(f"trainer.{key}", f"lora-ns reads it for {SPECTRAL_TRAINER} only")


def _read_settings(sheet: Sheet) -> None:
    sheet.map_whole("trainer.refactor_every", "callbacks.0.every", 100)
    sheet.map_whole("trainer.warmup_steps", "callbacks.0.warmup_steps", None)
    sheet.map_whole("trainer.cooldown_steps", "callbacks.0.cooldown_steps", None)
    _read_mode(sheet)
    sheet.drop("trainer.preserve_momentum", "Adam's first moments always follow the factors")
    if sheet.boolean("trainer.clear_momentum", default=True):
        sheet.map("trainer.clear_momentum", "callbacks.0.second_moments", "clear")
        sheet.put("callbacks.0.second_moments", "clear")
        if "trainer.clear_momentum" not in sheet:
            sheet.default("callbacks.0.second_moments", "clear")
    else:
        sheet.map("trainer.clear_momentum", "callbacks.0.second_moments", "keep")
    sheet.drop("trainer.damping_eps", "no factor is inverted, so there is nothing to damp")
    if not sheet.number("trainer.clip_min_sigma", 0):
        sheet.drop("trainer.clip_min_sigma", "not asked for")
    else:
        sheet.refuse("trainer.clip_min_sigma", "singular values are not lifted: that would change the model")


def _read_mode(sheet: Sheet) -> None:
    """lora-ns balances by default, also over a start inside the base, which wrecks the model: there it is exact."""
    mode_key, share_key = "trainer.refactor_mode", "trainer.balance_lambda"
    is_balanced = sheet.text(mode_key, "balanced") == "balanced"
    why_exact = _why_exact(sheet.tree["adapter"])
    if is_balanced and not why_exact:
        _put_mode(sheet, mode_key, "balanced", "")
        _read_share(sheet, share_key)
        return
    _put_mode(sheet, mode_key, "exact", why_exact if is_balanced else "")
    sheet.drop(share_key, "exact refactoring has no lambda")


def _why_exact(adapter: dict[str, Any]) -> str:
    """Why singular values of this adapter must not be balanced; empty where they may be."""
    if adapter.get("init") in STARTS_INSIDE_BASE:
        return (
            "balanced over a start inside the base flattens the base's own singular values: perplexity of SmolLM2-135M "
            "5.9 before and 2,799 after one time, with rank 32 on all layers, rank-stabilised, and lambda 0.85"
        )
    return "balanced moves BA, on which the lengths that DoRA learns rest" if adapter.get("method") == "dora" else ""


def _put_mode(sheet: Sheet, key: str, mode: str, why: str) -> None:
    sheet.map(key, "callbacks.0.mode", mode, why)
    sheet.put("callbacks.0.mode", mode)
    if key not in sheet:
        sheet.notes.append(f"callbacks.0.mode = {mode}: " + (why or "the tool's default, as the file does not say"))


def _read_share(sheet: Sheet, key: str) -> None:
    """lambda at the first step; it rises to 1 in both tools."""
    share = sheet.number(key, 1.0)
    if 0 <= share < 1:
        sheet.map(key, "callbacks.0.balance", share)
    else:
        why = "lambda 1 makes all singular values equal at once: whet's 0.8 is taken"
        sheet.refuse(key, why)
        if key not in sheet:
            sheet.notes.append(f"callbacks.0.balance: lora-ns's default {why}")
