"""Claim: the peak memory that `whet estimate` names before a run is within 10 % of the one the run reaches on a CPU.

A grid of models (SmolLM2-135M; a wide and a narrow Llama of random weights with its tokenizer), ranks and all weights,
lengths and batches. Rows are seeded random words. Each configuration is one epoch of a few steps through `run_recipe`
in a process of its own, on one thread, with freed memory kept as the command does. The prediction is made in another
process that knows the recipe, the model's config.json and the lengths of the rows, and loads nothing.

Time: the second step calibrates, the later ones are predicted from it by their operations. On a machine that others use
this says as much of them as of the formula.

    python benchmarks/estimate_grid.py              measure and predict
    python benchmarks/estimate_grid.py --predict    predict anew what the result file has measured
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import RESULTS
from memory_plan import RECIPE, write_rows

NUM_STEPS = 3
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
    "SmolLM2, LoRA r8, bf16, 3 long rows": (SMOLLM2, 3, 3, 560, LORA),
    "SmolLM2, LoRA r8, bf16, 16 short rows": (SMOLLM2, 16, 16, 60, LORA),
    "SmolLM2, DoRA r8, bf16": (SMOLLM2, 3, 3, 140, (*LORA, "adapter.method=dora")),
    "SmolLM2, LoRA r8, bf16, recompute full": (SMOLLM2, 12, 12, 140, (*LORA, "train.recompute=full")),
}


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


def measure(name: str) -> dict[str, Any]:
    """Peak and seconds of one run, with what a prediction of it needs."""
    model, global_size, micro, num_words, overrides = CONFIGURATIONS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
        write_rows(folder / "rows.jsonl", num_rows=NUM_STEPS * global_size, num_words=num_words)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--child", str(folder), name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        run = folder / "run"
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        plan = json.loads((run / "run_plan.json").read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        found = json.loads((folder / "lengths.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    steps = [line for line in lines if line["kind"] == "step"]
    return {
        "peak_bytes": summary["peak_memory_bytes"],
        "planned_bytes": summary["predicted_memory_bytes"],
        "recompute": plan["recompute"],
        "step_tokens": [step["num_tokens"] for step in steps],
        "step_seconds": [round(step["seconds"], 3) for step in steps],
        "config": config,
        **found,
    }


def run_configuration(folder: Path, name: str) -> None:
    """In a process of its own: the run of a configuration, whose lengths stay beside it."""
    from whet.allocator import keep_freed_memory
    from whet.models.tokenizer import load_tokenizer
    from whet.recipe import load_recipe
    from whet.train.run import Options, run_recipe

    model, global_size, micro, _, overrides = CONFIGURATIONS[name]
    model_folder = folder / "model"
    subprocess.run([sys.executable, __file__, "--model", model, str(model_folder)], check=True)
    changes = (*recipe_changes(global_size, micro, overrides), f"model.id={model_folder if model in SHAPES else model}")
    recipe = load_recipe(folder / "recipe.yaml", changes)
    config = json.loads((load_tokenizer(recipe.model).folder / "config.json").read_text(encoding="utf-8"))
    kept = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings")  # fmt: skip
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in kept if key in config}))
    _keep_lengths(folder)
    keep_freed_memory()
    run_recipe(recipe, Options(say=lambda _: None))


def _keep_lengths(folder: Path) -> None:
    """Write lengths.json when the run has prepared its rows, without another copy of them in this process."""
    from whet.train import run

    prepare = run.prepare

    def watched(*arguments: Any, **settings: Any) -> Any:
        data = prepare(*arguments, **settings)
        document = {"lengths": data.train.lengths.tolist(), "num_taught": data.train.num_taught.tolist()}
        (folder / "lengths.json").write_text(json.dumps(document), encoding="utf-8")
        return data

    run.prepare = watched


def main(names: list[str]) -> None:
    """Measure; what was measured is kept after each configuration."""
    path = Path(os.environ.get("OUT") or RESULTS) / "raw.json"
    measured = json.loads(path.read_text()) if path.is_file() else {}
    for name in names or CONFIGURATIONS:
        if name in measured:
            continue
        measured[name] = row = measure(name)
        print(f"{name:<40} peak {row['peak_bytes'] / 1e9:5.2f} GB, planned {row['planned_bytes'] / 1e9:5.2f} GB, "
              f"steps of {row['step_seconds']} s", flush=True)  # fmt: skip
        path.write_text(json.dumps(measured))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_configuration(Path(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["--model"]:
        make_model(sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
