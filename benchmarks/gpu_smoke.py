"""Claim: a 1B Llama trains on CUDA as in float32 on the CPU, and resumes where it stopped, on a bare machine.

Everything is made here: a random Llama of about 1B parameters, a byte tokenizer, rows of words. The first steps of a
float32 run on the CPU are the reference; on the GPU 20 steps run in float32 and in bfloat16, both with LoRA. Then the
bfloat16 run is continued from its checkpoint in the middle and must end as it ended. `--tiny` does the same with a toy
model on the CPU alone. No package index and no hub are used. Exit code 1 when a check fails.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import write_result
from whet.recipe.schema import Adapter, Batch, Data, Model, Optim, Recipe, Source, Train
from whet.train.run import Options, run_recipe

NUM_STEPS = 20
NUM_REFERENCE_STEPS = 3
"""float32 steps on the CPU: about 9 TFLOP each for the 1B model"""

FLOAT32_TOLERANCE = 1e-3
"""nats; sums in another order give 1e-6 per step, which Adam amplifies where gradients are near zero"""
BFLOAT16_TOLERANCE = 0.03
"""nats; 8 bits of mantissa leave about 1e-3 in the mean over 2,000 tokens at the start, more as the runs part"""
RESUME_TOLERANCE = 1e-3
"""nats, on CUDA; on the CPU the continued run must be equal bit by bit"""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Shape of the model and of the rows."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    rows_per_step: int
    words_per_row: int


ONE_BILLION = Size(2048, 8192, 16, 32, 8, 32_000, rows_per_step=8, words_per_row=40)
TOY = Size(64, 96, 2, 4, 2, 300, rows_per_step=2, words_per_row=6)


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    folder: Path
    losses: list[float]
    tokens_per_second: float
    """median over the steps after the second"""
    tokens_per_step: float
    peak_memory_bytes: int


def write_model(folder: Path, size: Size) -> int:
    """A random Llama in bfloat16 (exact in float32 too) with a byte tokenizer; returns its parameters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(tokens[:3])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=CHATML
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.inner,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def write_rows(path: Path, size: Size) -> None:
    """Questions with their words in reverse order as answers; one epoch is the whole run."""
    rng = np.random.default_rng(0)
    words = ["stone", "river", "lamp", "green", "seven", "walk", "north", "glass"]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(NUM_STEPS * size.rows_per_step):
            chosen = [words[i] for i in rng.integers(0, len(words), int(rng.integers(2, size.words_per_row)))]
            row = {"prompt": " ".join(chosen), "completion": " ".join(reversed(chosen))}
            file.write(json.dumps(row) + "\n")


def train(
    root: Path, name: str, size: Size, *, device: str, dtype: str, steps: int = NUM_STEPS, resume: Path | None = None
) -> Finished:
    """One run of whet's own `run_recipe` in `root / name`."""
    recipe = Recipe(
        name=name,
        output=str(root / name),
        model=Model(id=str(root / "model"), dtype=dtype),
        adapter=Adapter(rank=16, alpha=32),
        data=Data(train=(Source(source=str(root / "rows.jsonl")),)),
        batch=Batch(global_size=size.rows_per_step, micro_size=size.rows_per_step // 2),
        optim=Optim(lr=1e-3, schedule="constant", warmup=0),
        train=Train(max_steps=steps, save_every=NUM_STEPS // 2, device=device),
        tracking=(),
    )
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run_recipe(recipe, Options(resume=str(resume) if resume else None, say=lambda _: None))
    lines = [json.loads(line) for line in (root / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    records = [line for line in lines if line["kind"] == "step"]
    finished = Finished(
        folder=root / name,
        losses=[r["loss"] for r in records],
        tokens_per_second=statistics.median(r["tokens_per_second"] for r in records[2:] or records),
        tokens_per_step=statistics.mean(r["num_tokens"] for r in records),
        peak_memory_bytes=json.loads((root / name / "summary.json").read_text())["peak_memory_bytes"],
    )
    print(
        f"{name:22s} {len(records):3d} steps  loss {finished.losses[0]:.4f} -> {finished.losses[-1]:.4f}  "
        f"{finished.tokens_per_second:10,.0f} tokens/s  {finished.peak_memory_bytes / 1e9:6.2f} GB",
        flush=True,
    )
    return finished


def largest_gap(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=False))


def weights_sha256(run: Finished) -> str:
    return hashlib.sha256((run.folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def smoke(root: Path, size: Size, device: str) -> dict[str, Any]:
    """All runs and all checks; `checks` holds what was found, what is allowed, and whether it passed."""
    num_parameters = write_model(root / "model", size)
    write_rows(root / "rows.jsonl", size)
    reference = train(root, "cpu-float32", size, device="cpu", dtype="float32", steps=NUM_REFERENCE_STEPS)
    float32 = train(root, f"{device}-float32-20", size, device=device, dtype="float32")
    bfloat16 = train(root, f"{device}-bfloat16-20", size, device=device, dtype="bfloat16")
    middle = bfloat16.folder / f"checkpoint-{NUM_STEPS // 2}"
    resumed = train(root, f"{device}-resumed", size, device=device, dtype="bfloat16", resume=middle)
    is_equal = weights_sha256(resumed) == weights_sha256(bfloat16)
    gaps = {
        f"float32 on {device} against float32 on cpu": (
            largest_gap(reference.losses, float32.losses), FLOAT32_TOLERANCE),
        f"bfloat16 on {device} against float32 on cpu": (
            largest_gap(reference.losses, bfloat16.losses), BFLOAT16_TOLERANCE),
        f"bfloat16 against float32 on {device}, all steps": (
            largest_gap(float32.losses, bfloat16.losses), BFLOAT16_TOLERANCE),
        "continued from the middle against never stopped": (
            largest_gap(bfloat16.losses[NUM_STEPS // 2 :], resumed.losses[-(NUM_STEPS // 2) :]), RESUME_TOLERANCE),
    }  # fmt: skip
    checks = {name: {"largest_loss_gap": gap, "tolerance": t, "passed": gap <= t} for name, (gap, t) in gaps.items()}
    learned = bfloat16.losses[0] - bfloat16.losses[-1]
    checks["the loss falls"] = {"nats": learned, "passed": learned > 0.1}
    checks["the continued adapter has the same bytes"] = {"equal": is_equal, "passed": is_equal or device == "cuda"}
    for name, check in checks.items():
        print(f"{'ok  ' if check['passed'] else 'FAIL'} {name}: {check}")
    runs = {"cpu float32": reference, f"{device} float32": float32, f"{device} bfloat16": bfloat16}
    return {
        "num_parameters": num_parameters,
        "device": device,
        "checks": checks,
        "runs": {
            name: {
                "steps": len(run.losses),
                "tokens_per_step": run.tokens_per_step,
                "median_tokens_per_second": run.tokens_per_second,
                "peak_memory_bytes": run.peak_memory_bytes,
                "losses": run.losses,
            }
            for name, run in runs.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a toy model on the CPU alone; written only where OUT says")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        print("no CUDA device: nothing measured (--tiny runs the same steps on the CPU)")
        return
    with tempfile.TemporaryDirectory() as folder:
        result = smoke(Path(folder), TOY if args.tiny else ONE_BILLION, "cpu" if args.tiny else "cuda")
    if not args.tiny or os.environ.get("OUT"):
        write_result("gpu_smoke", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)
    if not all(check["passed"] for check in result["checks"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
