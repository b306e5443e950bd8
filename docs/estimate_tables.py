"""The tables of docs/estimates.md: estimates against measured runs, the seeds' numbers against them, the GPUs."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.cli.estimate_inputs import look, target_of
from whet.estimate.devices import DEVICES
from whet.recipe import load_recipe
from whet.train.foresee import Foreseen

RECIPES = Path(__file__).parents[1] / "recipes"


def grid_table(result: dict[str, Any]) -> str:
    """estimate_grid.json: peaks and seconds, predicted and measured, configuration by configuration."""
    rows = result["configurations"]
    lines = [
        f"**{result['num_within_bar']} of {len(rows)} within {result['bar']:.0%}; the worst is off by "
        f"{result['worst_relative_error']:.1%}.** {result['machine']['processor']}, {result['date'][:10]}, torch "
        f"{result['versions']['torch']}: `{result['command']}`",
        "",
        "| run | tokens of the largest pass | estimate | measured peak | error | seconds, predicted / measured |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['tokens_of_largest_pass']:,} | {row['predicted_bytes'] / 1e9:.2f} GB "
        f"| {row['peak_bytes'] / 1e9:.2f} GB | {row['error']:+.1%} | {_ratio(row)} |"
        for name, row in rows.items()
    ]
    ratios = sorted(ratio for row in rows.values() if (ratio := row["predicted_seconds_over_measured"]) is not None)
    if ratios:
        middle = f"the median is {statistics.median(ratios):.2f}"
        lines += [
            "",
            f"Seconds came out between {ratios[0]:.2f} and {ratios[-1]:.2f} times what was measured; {middle}.",
        ]
    return "\n".join([*lines, "", *_fitted(result["fitted_on"])])


def _ratio(row: dict[str, Any]) -> str:
    ratio = row["predicted_seconds_over_measured"]
    return "not measured" if ratio is None else f"{ratio:.2f}"


def _fitted(rows: dict[str, Any]) -> list[str]:
    """Runs on which the formula was fitted, so that they prove less."""
    worst = max(abs(row["error"]) for row in rows.values())
    return [
        f"SmolLM2-135M, {len(rows)} runs of `benchmarks/memory_plan.py`, on which the slack was fitted: the worst is "
        f"off by {worst:.1%}.",
        "",
        "| run | tokens of the largest pass | estimate | measured peak | error |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {row['tokens_of_largest_pass']:,} | {row['predicted_bytes'] / 1e9:.2f} GB "
            f"| {row['peak_bytes'] / 1e9:.2f} GB | {row['error']:+.1%} |"
            for name, row in rows.items()
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A number of a seed, and the command that answers it."""

    says: str
    recipe: str
    gpu: str
    count: int
    overrides: tuple[str, ...]
    num_rows: int
    mean_length: float
    shown: Callable[[Foreseen], str]
    """what the estimate says"""
    verdict: str
    """right or wrong, and why"""

    @property
    def command(self) -> str:
        rows = ("--rows", str(self.num_rows), "--mean-length", f"{self.mean_length:g}")
        where = ("--gpu", self.gpu, "--count", str(self.count))
        words = ("whet", "estimate", f"recipes/{self.recipe}", *self.overrides, *where, *rows)
        return shlex.join(words)

    def foreseen(self) -> Foreseen:
        """As the command makes it."""
        recipe = load_recipe(RECIPES / self.recipe, self.overrides)
        return look(
            recipe, target_of(recipe, self.gpu, self.count), num_rows=self.num_rows, mean_length=self.mean_length,
            longest=None, reads=False, say=lambda _: None,
        ).foreseen  # fmt: skip


def _peak(foreseen: Foreseen) -> str:
    return f"{foreseen.peak_bytes / 1e9:.1f} GB each"


def _all(foreseen: Foreseen) -> str:
    together = foreseen.peak_bytes * foreseen.target.num_ranks
    return f"{_peak(foreseen)}, {together / 1e9:.0f} GB together"


def _parts(*names: str) -> Callable[[Foreseen], str]:
    return lambda foreseen: f"{sum(foreseen.parts[name] for name in names) / 1e9:.2f} GB"


def _hours(foreseen: Foreseen) -> str:
    least, most = foreseen.step_seconds() or (0.0, 0.0)
    return f"{least * foreseen.plan.total_steps / 3600:.1f} to {most * foreseen.plan.total_steps / 3600:.1f} h"


def _disk(foreseen: Foreseen) -> str:
    disk = foreseen.disk
    return f"{disk.checkpoint_bytes / 1e9:.1f} GB a checkpoint, {disk.run_bytes / 1e9:.1f} GB the run folder"


_METAMATH = {
    "recipe": "llama3.1-8b/metamathqa_lora.yaml", "gpu": "h200", "count": 8, "num_rows": 394_900, "mean_length": 1024,
}  # fmt: skip
_AS_WRITTEN = ("batch.micro_size=4", "train.recompute=full")
_FIQA = {"recipe": "nemotron-nano-8b/fiqa_lora.yaml", "count": 1, "num_rows": 5500}
_SFT = {"recipe": "llama3-8b/sft_dolly.yaml", "num_rows": 12_008, "mean_length": 2048}
CLAIMS = (
    Claim(
        says='lora-ns: "Total per GPU: ~22-26GB", its table 24-28 GB (MetaMathQA)', overrides=_AS_WRITTEN, **_METAMATH,
        shown=_peak,
        verdict="right for its stack, which computes all logits at once (4 x 1024 x 128,256 in bfloat16 and float32 "
        "with their gradient: 5 GB more); whet's own head takes them in blocks",
    ),
    Claim(
        says='lora-ns: "Activation memory: ~12GB" with gradient checkpointing', overrides=_AS_WRITTEN, **_METAMATH,
        shown=_parts("activations", "work"),
        verdict="wrong: with checkpointing far less, and without it far more (next line)",
    ),
    Claim(
        says="the same without checkpointing", overrides=("batch.micro_size=4", "train.recompute=none"), **_METAMATH,
        shown=_parts("activations", "work"), verdict="what PEFT's own layers keep is more: whet's functions keep less",
    ),
    Claim(
        says='lora-ns: "Optimizer states: ~1GB"', overrides=_AS_WRITTEN, **_METAMATH,
        shown=_parts("gradients", "moments"), verdict="right, gradients included",
    ),
    Claim(
        says='lora-ns: MetaMathQA in "8-10 hours" on 8 H200', overrides=_AS_WRITTEN,
        **_METAMATH | {"mean_length": 240}, shown=_hours,
        verdict="wrong beside its own 120-150 samples a second, which are 1.5 to 1.8 h (not measured on a GPU here)",
    ),
    Claim(
        says='lora-ns: "Storage: 500GB+ for model, datasets, and checkpoints"', overrides=(), **_METAMATH, shown=_disk,
        verdict="far more than a LoRA run needs: with 16 GB for the model, below 30 GB",
    ),
    Claim(
        says='FiQA: "24GB+ VRAM", as it is written: 4 rows of 2048, nothing recomputed', gpu="rtx4090",
        mean_length=2048, overrides=("batch.micro_size=4", "train.recompute=none"), **_FIQA, shown=_peak,
        verdict="wrong: twice as much even here; its own stack keeps more and holds all logits (10 GB more)",
    ),
    Claim(
        says="the same recipe where whet may choose the pass and recompute", gpu="rtx4090", mean_length=2048,
        overrides=("batch.micro_size=auto",), **_FIQA, shown=_peak, verdict="24 GB are enough, with the same result",
    ),
    Claim(
        says='NeMo SFT: "at least 2 NVIDIA GPUs with a cumulative memory of at least 80GB"', gpu="h100", count=2,
        overrides=(), **_SFT, shown=_all,
        verdict="wrong: weights, gradients and moments alone are 128 GB in float32; its example, 2 x 80 GB, is at its "
        "limit",
    ),
    Claim(
        says="the same on one GPU with moments of 8 bits and weights in bfloat16", gpu="h100", count=1,
        overrides=("optim.name=adamw_8bit",), **_SFT, shown=_peak,
        verdict="one card of 80 GB does it, with other rounding",
    ),
    Claim(
        says='NeMo LoRA: "1 x H100-80GB"', recipe="llama3-8b/lora_squad.yaml", gpu="h100", count=1, overrides=(),
        num_rows=83_219, mean_length=2048, shown=_peak, verdict="right, and more than is needed",
    ),
    Claim(
        says="NeMo SFT: a checkpoint is 112 GB (bfloat16 weights, 12 bytes each of float32 state), two are kept",
        gpu="h100", count=2, overrides=("train.keep=2",), **_SFT, shown=_disk,
        verdict="right for NeMo: 8.03e9 x 14 bytes; whet holds the float32 weights once, so 12",
    ),
)  # fmt: skip


def seeds_table() -> str:
    """Every claim with what the estimate says and the command."""
    lines = ["| claim | estimate | verdict | command |", "|---|---|---|---|"]
    lines += [
        f"| {claim.says} | {claim.shown(claim.foreseen())} | {claim.verdict} | `{claim.command}` |" for claim in CLAIMS
    ]
    return "\n".join(lines)


def device_table() -> str:
    """Every GPU with its figures and where they stand."""
    lines = ["| --gpu | memory | bfloat16, dense | bandwidth | to its node | source |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{name}` ({device.name}) | {device.memory_bytes / 1e9:.0f} GB | {device.flops / 1e12:,.0f} TFLOP/s "
        f"| {device.memory_bytes_per_second / 1e12:.3g} TB/s | {device.link} | {device.source} |"
        for name, device in DEVICES.items()
    ]
    return "\n".join(lines)


COMPUTED: dict[str, Callable[[], str]] = {"seeds": seeds_table, "devices": device_table}
