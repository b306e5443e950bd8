"""Claim: the peak memory that `whet estimate` names before a run is within 10 % of the one the run reaches on a CPU.

A grid of models (SmolLM2-135M; a wide and a narrow Llama of random weights with its tokenizer), ranks and all weights,
lengths and batches. Rows are seeded random words. Each configuration is one epoch of a few steps through `run_recipe`
in a process of its own, on one thread, with freed memory kept as the command does. The prediction is made in another
process that knows the recipe, the model's config.json and the lengths of the rows, and loads nothing.

Time, of some: `whet estimate RECIPE --measure` makes a few passes in a process of its own, right before another run
that saves at its end alone; its seconds a token are held against those of that run's steps but the first, without the
save. A checkpoint is not in the estimate, and its writer takes turns with training on one thread.

    python benchmarks/estimate_grid.py [NAME ...]     measure all configurations, or some, and predict
    python benchmarks/estimate_grid.py --predict      predict anew what the result file has measured
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import memory_plan
from machine import RESULTS, write_result
from memory_plan import RECIPE, write_rows

NAME = "estimate_grid"
NUM_STEPS = 5
BAR = 0.10
SMOLLM2, WIDE, NARROW = "smollm2-135m-instruct", "wide", "narrow"
SHAPES = {
    WIDE: {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6, "num_attention_heads": 16,
           "num_key_value_heads": 8, "tie_word_embeddings": False},
    NARROW: {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 4,
             "num_key_value_heads": 4, "tie_word_embeddings": True},
}  # fmt: skip
"""models of random weights, with SmolLM2's vocabulary"""
LORA = ("adapter.rank=8", "adapter.alpha=16")
FLOAT32 = "model.dtype=float32"
ALL = ("adapter.method=none", "optim.lr=2e-5")
# name -> (model, samples of a step, samples of a pass, words of a row, overrides)
CONFIGURATIONS: dict[str, tuple[str, int, int, int, tuple[str, ...]]] = {
    "SmolLM2, LoRA r64, bf16": (SMOLLM2, 6, 6, 140, ("adapter.rank=64", "adapter.alpha=16")),
    "SmolLM2, LoRA r8, bf16, dropout": (SMOLLM2, 6, 6, 140, (*LORA, "adapter.dropout=0.05")),
    "SmolLM2, LoRA r8, float32": (SMOLLM2, 4, 4, 140, (*LORA, FLOAT32)),
    "SmolLM2, all, float32": (SMOLLM2, 2, 2, 140, (*ALL, FLOAT32)),
    "SmolLM2, all, float32, 2 passes a step": (SMOLLM2, 4, 2, 140, (*ALL, FLOAT32)),
    "SmolLM2, all, bf16": (SMOLLM2, 4, 4, 140, ALL),
    "SmolLM2, all, float32 masters": (SMOLLM2, 4, 4, 140, (*ALL, "optim.master=float32")),
    "SmolLM2, all, adamw_8bit": (SMOLLM2, 4, 4, 140, (*ALL, "optim.name=adamw_8bit")),
    "wide, LoRA r16, bf16": (WIDE, 6, 6, 140, ("adapter.rank=16", "adapter.alpha=16")),
    "wide, all, bf16": (WIDE, 2, 2, 140, ALL),
    "narrow, LoRA r8, bf16": (NARROW, 12, 12, 140, LORA),
    "narrow, all, float32": (NARROW, 8, 8, 140, (*ALL, FLOAT32)),
    "narrow, all, float32, 3 passes a step": (NARROW, 6, 2, 140, (*ALL, FLOAT32)),
    "narrow, all, adamw_8bit": (NARROW, 8, 8, 140, (*ALL, "optim.name=adamw_8bit")),
    "narrow, all, float32 masters": (NARROW, 8, 8, 140, (*ALL, "optim.master=float32")),
    "narrow, LoRA r64, bf16, dropout": (NARROW, 8, 8, 140, ("adapter.rank=64", "adapter.dropout=0.1")),
    "narrow, LoRA r8, float32, long rows": (NARROW, 3, 3, 560, (*LORA, FLOAT32)),
    "SmolLM2, LoRA r8, bf16, 3 long rows": (SMOLLM2, 3, 3, 560, LORA),
    "SmolLM2, LoRA r8, bf16, 16 short rows": (SMOLLM2, 16, 16, 60, LORA),
    "SmolLM2, DoRA r8, bf16": (SMOLLM2, 3, 3, 140, (*LORA, "adapter.method=dora")),
    "SmolLM2, LoRA r8, bf16, recompute full": (SMOLLM2, 12, 12, 140, (*LORA, "train.recompute=full")),
}

TIMED = frozenset({
    "SmolLM2, LoRA r64, bf16", "SmolLM2, LoRA r8, float32", "SmolLM2, all, float32", "SmolLM2, all, bf16",
    "SmolLM2, all, float32 masters", "SmolLM2, all, adamw_8bit", "wide, LoRA r16, bf16", "wide, all, bf16",
    "narrow, LoRA r8, bf16", "narrow, all, float32",
})  # fmt: skip


def make_model(name: str, folder: Path) -> str:
    """Id of a model, or the folder into which one of random weights was written."""
    if name not in SHAPES:
        return name
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from whet.models.tokenizer import load_tokenizer
    from whet.recipe.schema import Model

    text_side = load_tokenizer(Model(id=SMOLLM2))
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[name], vocab_size=49_152, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    text_side.tokenizer.save_pretrained(folder)
    return str(folder)


def recipe_changes(global_size: int, micro: int, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """What the command of a configuration says beside its recipe."""
    return (f"batch.global_size={global_size}", f"batch.micro_size={micro}", "train.threads=1", *overrides)


def _changes(name: str, folder: Path) -> tuple[str, ...]:
    """The same for the model in `folder`."""
    model, global_size, micro, _, overrides = CONFIGURATIONS[name]
    changes = recipe_changes(global_size, micro, overrides)
    return (*changes, f"model.id={folder / 'model'}") if model in SHAPES else changes


def measure(name: str) -> dict[str, Any]:
    """Peak and seconds of one run, with what a prediction of it needs."""
    _, global_size, _, num_words, _ = CONFIGURATIONS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
        write_rows(folder / "rows.jsonl", num_rows=NUM_STEPS * global_size, num_words=num_words)
        subprocess.run(
            [sys.executable, __file__, "--model", CONFIGURATIONS[name][0], str(folder / "model")], check=True
        )
        timed = _time(name, folder) if name in TIMED else {}
        steps = _run(name, folder)
        summary, plan, found = (
            json.loads((folder / path).read_text(encoding="utf-8"))
            for path in ("run/summary.json", "run/run_plan.json", "found.json")
        )
    return {
        "peak_bytes": summary["peak_memory_bytes"],
        "planned_bytes": summary["predicted_memory_bytes"],
        "process_bytes": summary["predicted_memory_parts"]["process"],
        "recompute": plan["recompute"],
        "step_tokens": [step["num_tokens"] for step in steps],
        "step_seconds": [round(step["seconds"], 3) for step in steps],
        **timed,
        **found,
    }


def _time(name: str, folder: Path) -> dict[str, Any]:
    """What is told of the seconds of a token, and what a token takes in a run that saves at its end alone."""
    asked = [sys.executable, "-m", "whet", "estimate", str(folder / "recipe.yaml"), *_changes(name, folder)]
    answer = subprocess.run(
        [*asked, "--measure", "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_alone(),
    ).stdout  # fmt: skip
    told = json.loads(answer)["time"]
    steps = _run(name, folder, f"train.save_every={10 * NUM_STEPS}")[1:]
    seconds = sum(step["seconds"] - step["save_seconds"] for step in steps)
    shutil.rmtree(folder / "run")
    return {
        "told_seconds_per_token": told["seconds_per_step"][0] / told["tokens_per_step"],
        "seconds_per_token": seconds / sum(step["num_tokens"] for step in steps),
    }


def _run(name: str, folder: Path, *changes: str) -> list[dict[str, Any]]:
    """One run in a process of its own; the lines of its steps."""
    command = [sys.executable, __file__, "--child", str(folder), name, *changes]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_alone())
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == "step"]


def _alone() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run_configuration(folder: Path, name: str, changes: Sequence[str]) -> None:
    """In a process of its own: the run of a configuration, whose lengths stay beside it."""
    from whet.allocator import keep_freed_memory
    from whet.models.tokenizer import load_tokenizer
    from whet.recipe import load_recipe
    from whet.train.run import Options, run_recipe

    recipe = load_recipe(folder / "recipe.yaml", (*_changes(name, folder), *changes))
    facts = _facts_of(load_tokenizer(recipe.model).folder)
    _keep_lengths(recipe, folder / "found.json", facts)
    keep_freed_memory()
    run_recipe(recipe, Options(say=lambda _: None))


def _facts_of(folder: Path) -> dict[str, Any]:
    """What an estimate reads in a model's folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings")  # fmt: skip
    return {
        "config": {key: config[key] for key in kept if key in config},
        "file_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
    }


def _keep_lengths(recipe: Any, path: Path, facts: dict[str, Any]) -> None:
    """Write what the run found of its rows, when it has prepared them, without another copy of them in this process."""
    from whet.data.sampler import order_of
    from whet.train import run

    prepare = run.prepare

    def watched(*arguments: Any, **settings: Any) -> Any:
        data = prepare(*arguments, **settings)
        rows = {
            "lengths": data.train.lengths.tolist(),
            "num_taught": data.train.num_taught.tolist(),
            "shared_prefix": order_of(recipe, data.train).shared_prefix,
        }
        path.write_text(json.dumps({**facts, **rows}), encoding="utf-8")
        return data

    run.prepare = watched


def predict(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """What `whet estimate` says of a configuration, beside what was measured; loads no model."""
    _, global_size, micro, _, overrides = CONFIGURATIONS[name]
    foreseen = foresee_rows(recipe_changes(global_size, micro, overrides), row)
    if foreseen.plan.recompute != row["recompute"]:
        raise SystemExit(f"{name}: the run recomputed {row['recompute']}, the estimate {foreseen.plan.recompute}")
    return {
        **_beside(foreseen, row["peak_bytes"]),
        "planned_bytes": row["planned_bytes"],
        "predicted_seconds_over_measured": _time_ratio(row),
        "parts": dict(foreseen.parts),
        "measured": row,
    }


def foresee_rows(changes: tuple[str, ...], row: dict[str, Any]) -> Any:
    """The estimate of a recipe whose rows have these lengths, on this machine with more memory than it needs."""
    import numpy as np

    from whet.data.sampler import Order
    from whet.estimate.hardware import multiplies_bfloat16
    from whet.models.families import num_parameters, shape_from_config
    from whet.recipe import parse_recipe
    from whet.train.foresee import Target, WeightFiles, foresee
    from whet.train.known_rows import rows_of

    recipe = parse_recipe(RECIPE.format(folder="."), "grid", changes)
    shape = shape_from_config(row["config"])
    order = Order(np.array(row["lengths"], dtype=np.int32), seed=recipe.seed, shared_prefix=row["shared_prefix"])
    files = WeightFiles(num_bytes=row["file_bytes"], bytes_per_weight=row["file_bytes"] / num_parameters(shape))
    target = Target(
        name="this machine", device="cpu", num_ranks=1, compute_bytes=2 if multiplies_bfloat16() else 4,
        memory_bytes=1e12,
    )  # fmt: skip
    rows = rows_of(recipe, order, np.array(row["num_taught"], dtype=np.int32), num_data_ranks=1)
    return foresee(recipe, shape, rows, target, files)


def _beside(foreseen: Any, peak_bytes: int) -> dict[str, Any]:
    return {
        "tokens_of_largest_pass": foreseen.largest.tokens,
        "predicted_bytes": foreseen.peak_bytes,
        "peak_bytes": peak_bytes,
        "error": round(foreseen.peak_bytes / peak_bytes - 1, 4),
    }


def predict_earlier() -> dict[str, dict[str, Any]]:
    """The estimate beside the peaks that memory_plan.json has measured, on which its slack was fitted."""
    from whet.data.pipeline import prepare
    from whet.data.sampler import order_of
    from whet.models.tokenizer import load_tokenizer
    from whet.recipe import load_recipe

    measured = json.loads((RESULTS / "memory_plan.json").read_text(encoding="utf-8"))["configurations"]
    found = {}
    for name, (micro, num_words, overrides) in memory_plan.CONFIGURATIONS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
            write_rows(folder / "rows.jsonl", num_rows=memory_plan.NUM_STEPS * micro, num_words=num_words)
            changes = recipe_changes(micro, micro, overrides)
            recipe = load_recipe(folder / "recipe.yaml", changes)
            text_side = load_tokenizer(recipe.model)
            train = prepare(recipe, text_side.tokenizer, end_ids=text_side.stop_ids, base_folder=folder).train
        row = {
            **_facts_of(text_side.folder), "lengths": train.lengths.tolist(), "num_taught": train.num_taught.tolist(),
            "shared_prefix": order_of(recipe, train).shared_prefix,
        }  # fmt: skip
        found[name] = _beside(foresee_rows(changes, row), measured[name]["peak_bytes"])
    return found


def _time_ratio(row: dict[str, Any]) -> float | None:
    """What was told before the run of a token, by what one took; None: that was not measured."""
    if "seconds_per_token" not in row:
        return None
    return round(row["told_seconds_per_token"] / row["seconds_per_token"], 3)


def write(measured: dict[str, dict[str, Any]]) -> None:
    """The result file, with predictions made now."""
    rows = {name: predict(name, measured[name]) for name in CONFIGURATIONS if name in measured}
    for name, row in rows.items():
        print(f"{name:<40} predicted {row['predicted_bytes'] / 1e9:5.2f} GB  peak {row['peak_bytes'] / 1e9:5.2f} GB  "
              f"{row['error']:+.1%}  seconds x {row['predicted_seconds_over_measured']}", flush=True)  # fmt: skip
    worst = max(abs(row["error"]) for row in rows.values())
    write_result(
        NAME,
        claim="the peak memory that an estimate names is within 10 % of the one the run reaches on a CPU",
        result={
            "bar": BAR,
            "worst_relative_error": worst,
            "num_within_bar": sum(abs(row["error"]) <= BAR for row in rows.values()),
            "configurations": rows,
            "fitted_on": predict_earlier(),
        },
        command="python benchmarks/estimate_grid.py",
    )


def main(names: list[str]) -> None:
    """Measure what is named (or everything) and predict; what was measured before and is not named stays."""
    path = Path(os.environ.get("OUT") or RESULTS) / f"{NAME}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["configurations"] if path.is_file() else {}
    measured = {name: row["measured"] for name, row in known.items()}
    if names != ["--predict"]:
        for name in names or CONFIGURATIONS:
            measured[name] = measure(name)
            write(measured)
    write(measured)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_configuration(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    elif sys.argv[1:2] == ["--model"]:
        make_model(sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
