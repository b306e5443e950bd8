"""What the GPU benchmarks share: random Llamas made on the device, rows of real lengths, timed steps, one process each.

Nothing is downloaded: weights are random and not zero, token ids are random, lengths come from benchmarks/lengths.

    FLOPs of a token, forward and backward, recompute not counted (N: weights of the blocks' linear layers, H: of the
    head, t: taught share, R: weights of the adapter, L: layers, Q: query heads x head size, S: mean of length^2 over
    mean of length)
        adapter       4 N + 4 t H + 6 R + 6 L Q S
        all weights   6 N + 6 t H       + 6 L Q S
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
PEAK_FLOPS = 989e12
"""dense bfloat16 of an H100 or H200 by the datasheet: what MFU is a share of"""
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int
    is_tied: bool = True

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of q, k, v, o, gate, up and down."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        hidden, inner = self.hidden, self.inner
        return (query, hidden), (key, hidden), (key, hidden), (hidden, query), *[(inner, hidden)] * 2, (hidden, inner)

    @property
    def num_linear(self) -> int:
        return self.layers * sum(rows * columns for rows, columns in self.linears)

    @property
    def num_head(self) -> int:
        return self.vocabulary * self.hidden

    def num_adapter(self, rank: int) -> int:
        return self.layers * rank * sum(rows + columns for rows, columns in self.linears)


SHAPES = {
    "toy": Shape(hidden=64, inner=96, layers=2, heads=4, kv_heads=2, vocabulary=500, head_size=16),
    "smollm2-135m": Shape(hidden=576, inner=1536, layers=30, heads=9, kv_heads=3, vocabulary=49_152, head_size=64),
    "smollm2-360m": Shape(hidden=960, inner=2560, layers=32, heads=15, kv_heads=5, vocabulary=49_152, head_size=64),
    "smollm2-1.7b": Shape(hidden=2048, inner=8192, layers=24, heads=32, kv_heads=32, vocabulary=49_152, head_size=64),
    "llama-3.1-8b": Shape(
        hidden=4096, inner=14_336, layers=32, heads=32, kv_heads=8, vocabulary=128_256, head_size=128, is_tied=False
    ),
}


def lengths_of(name: str) -> dict[str, Any]:
    """A file of benchmarks/lengths."""
    found: dict[str, Any] = json.loads((FOLDER / "lengths" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def flops_per_token(shape: Shape, pairs: Sequence[Sequence[int]], rank: int | None) -> float:
    """By the formulas above; `pairs`: [tokens, taught tokens] of rows, `rank`: of the adapter, None for all weights."""
    lengths, taught = np.array(pairs, dtype=float).T
    share = taught.sum() / lengths.sum()
    attention = 6 * shape.layers * shape.heads * shape.head_size * (lengths**2).mean() / lengths.mean()
    if rank is None:
        return 6 * shape.num_linear + 6 * share * shape.num_head + attention
    return 4 * shape.num_linear + 4 * share * shape.num_head + 6 * shape.num_adapter(rank) + attention


def random_llama(shape: Shape, device: Any, dtype: Any, *, num_layers: int | None = None, seed: int = 0) -> Any:
    """Weights drawn on the device, normal with a spread of 0.02."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=num_layers or shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, head_dim=shape.head_size, max_position_embeddings=8192,
        tie_word_embeddings=shape.is_tied, bos_token_id=1, eos_token_id=2, pad_token_id=2, dtype=dtype,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def made_up_rows(lengths: dict[str, Any], num_rows: int, vocabulary: int, seed: int = 0) -> Any:
    """A TokenizedSet of random tokens with the lengths, taught parts and common beginning of real rows."""
    from whet.types import TokenizedSample

    rng = np.random.default_rng(seed)
    pairs = np.array(lengths["tokens_and_taught"], dtype=np.int32)
    pairs = pairs[rng.integers(0, len(pairs), num_rows)]
    common = rng.integers(3, vocabulary, lengths["shared_first_tokens"]).astype(np.int32)
    samples = []
    for number, (num_tokens, num_taught) in enumerate(pairs.tolist()):
        ids = rng.integers(3, vocabulary, num_tokens).astype(np.int32)
        ids[: len(common)] = common[:num_tokens]
        taught = np.arange(num_tokens) >= num_tokens - num_taught
        samples.append(TokenizedSample(id=str(number), ids=ids, taught=taught))
    return token_set(samples)


def token_set(samples: Sequence[Any]) -> Any:
    """The TokenizedSet of these samples."""
    from whet.types import Ledger, TokenizedSet

    return TokenizedSet(
        samples=samples,
        lengths=np.array([sample.num_tokens for sample in samples], dtype=np.int32),
        num_taught=np.array([sample.num_taught for sample in samples], dtype=np.int32),
        source_sizes=(len(samples),),
        ledger=Ledger(name="train", num_rows=len(samples), num_kept=len(samples), rows=()),
        fingerprint="made up",
    )


def recipe_of(job: dict[str, Any]) -> Any:
    """The recipe that a user would write for a job."""
    from whet.recipe.schema import Adapter, Batch, Data, Model, Optim, Recipe, Source, Train

    return Recipe(
        name="benchmark",
        output="none",
        seed=job.get("seed", 42),
        model=Model(id=job["shape"], dtype=job["dtype"], quantize=job.get("quantize", "none")),
        adapter=Adapter(**job["adapter"]),
        data=Data(train=(Source(source="none.jsonl"),), max_length=8192),
        batch=Batch(
            global_size=job["rows_per_step"], micro_size=job["rows_per_pass"],
            share_prefix=job.get("shares_prefix", False),
        ),
        optim=Optim(lr=job.get("lr", 1e-5), schedule="constant", warmup=0, **job.get("optim", {})),
        train=Train(device=job["device"], recompute=job.get("recompute", "none"), memory_gb=job.get("memory_gb")),
    )  # fmt: skip


def build(job: dict[str, Any], *, rows: Any = None) -> Any:
    """A `Training` through the builder of `whet train`, over a random model and `rows`, by default of a length file."""
    import torch

    from whet.data.pipeline import PreparedData
    from whet.data.sampler import order_of
    from whet.kernels import attention_varlen
    from whet.models.load import LoadedModel
    from whet.parallel.env import Env
    from whet.parallel.mesh import Layout
    from whet.recipe.resolve import resolve
    from whet.train import memory_plan
    from whet.train.callbacks import Callbacks
    from whet.train.run import build_training
    from whet.types import ModelIdentity

    device, dtype = torch.device(job["device"]), getattr(torch, job["dtype"])
    recipe, shape = recipe_of(job), SHAPES[job["shape"]]
    drawn_in = getattr(torch, job.get("drawn_in", job["dtype"]))
    model = random_llama(shape, device, drawn_in, num_layers=job.get("num_layers"), seed=job.get("seed", 0))
    model.to(dtype)
    if recipe.model.quantize == "fp8":
        from whet.kernels.fp8_linear import quantize_linears

        quantize_linears(model, device=device, dtype=dtype, is_turned_too=job.get("recompute") != "full")
    identity = ModelIdentity(id=job["shape"], revision=None, weights_sha256="0" * 64)
    loaded = LoadedModel(
        model=model, tokenizer=None, identity=identity, folder=Path(), compute_dtype=dtype, stop_ids=(2,)
    )
    if rows is None:
        num_rows = job["rows_per_step"] * job["num_steps"]
        rows = made_up_rows(lengths_of(job["lengths"]), num_rows, shape.vocabulary)
    data = PreparedData(train=rows, validation=None, evaluate={}, template=None, ledgers=(), quarantine=(), notes=())
    order = order_of(recipe, rows)
    plan = resolve(recipe, world_size=1, num_samples=order.num_units, device=device.type, compute_dtype=job["dtype"])
    plan = replace(plan, share_prefix=recipe.batch.share_prefix)
    if recipe.train.recompute != "auto":
        plan = replace(plan, recompute=recipe.train.recompute)
    if device.type == "cuda":
        plan = replace(plan, attention=attention_varlen.choose(attention_varlen.heads_of(model, dtype), device))
    if job.get("memory_gb"):
        plan = memory_plan.decide(
            recipe, plan, loaded=loaded, order=order, num_taught=rows.num_taught, env=Env(), device=device,
            layout=Layout(), say=print,
        )  # fmt: skip
    return build_training(recipe, plan, Env(), Layout(), device, loaded, data, order, Callbacks([]), is_restored=False)


def timed(job: dict[str, Any], run: Any, step: Callable[[int], float]) -> dict[str, Any]:
    """Losses, rates and peak memory of `job["num_steps"]` steps, the first of which is not measured."""
    import torch

    is_cuda = run.device.type == "cuda"
    gc.collect()
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    losses, seconds = [], []
    for number in range(job["num_steps"]):
        _wait(is_cuda)
        started = time.perf_counter()
        losses.append(step(number))
        _wait(is_cuda)
        seconds.append(time.perf_counter() - started)
    taken = [run.order.step(run.plan, number).indices for number in range(1, job["num_steps"])]
    tokens = [int(run.order.lengths[indices].sum()) for indices in taken]
    rates = [n / s for n, s in zip(tokens, seconds[1:], strict=True)]
    return {
        "losses": losses,
        "seconds_per_step": seconds[1:],
        "tokens_per_second": statistics.median(rates),
        "range_tokens_per_second": [min(rates), max(rates)],
        "tokens_per_step": statistics.mean(tokens),
        "rows_per_step": job["rows_per_step"],
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() if is_cuda else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if is_cuda else None,
        "plan": {key: getattr(run.plan, key) for key in ("micro_batch", "recompute", "attention", "share_prefix",
                                                          "predicted_memory_bytes")},
        "kernels": dict(run.kernels),
    }  # fmt: skip


def _wait(is_cuda: bool) -> None:
    if is_cuda:
        import torch

        torch.cuda.synchronize()


def whet_step(run: Any) -> Callable[[int], float]:
    """The loop's own step."""
    from whet.train.callbacks import Requests
    from whet.train.loop import train_step
    from whet.train.signals import StopRequest

    return lambda number: train_step(run, number, asked=Requests(), stop=StopRequest())[0].loss


def with_rates(result: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """`result` with samples per second and MFU."""
    lengths = lengths_of(job["lengths"])
    rank = None if job["adapter"].get("method") == "none" else job["adapter"]["rank"]
    flops = flops_per_token(SHAPES[job["shape"]], lengths["tokens_and_taught"], rank)
    rate = result["tokens_per_second"]
    return result | {
        "samples_per_second": rate / (result["tokens_per_step"] / result["rows_per_step"]),
        "flops_per_token": flops,
        "mfu_of_989_tflops": rate * flops / PEAK_FLOPS if job["device"] == "cuda" else None,
    }


def measure(script: str, job: dict[str, Any], *, timeout_seconds: float = 300.0) -> dict[str, Any]:
    """One job in a process of its own; where memory runs out, again with half the rows per pass.

    What failed comes back as {"error": ...}, so that one rung does not cost the others.
    """
    command = [sys.executable, str(FOLDER / script), "--worker", json.dumps(job)]
    variables = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if job["device"] == "cuda":
        variables["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    try:
        done = subprocess.run(
            command, env=os.environ | variables, text=True, capture_output=True, check=False, timeout=timeout_seconds
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {timeout_seconds:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        result = {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:500], "log": done.stderr[-3000:]}
    else:
        result = json.loads(lines[-1])
    rows = job.get("rows_per_pass", 1)
    if result.get("error") == OUT_OF_MEMORY and rows != "auto" and rows > 1:
        return measure(script, job | {"rows_per_pass": rows // 2}, timeout_seconds=timeout_seconds)
    return result


def climb(jobs: dict[str, dict[str, Any]], *, seconds: float) -> list[dict[str, Any]]:
    """Every job by its script, with rates and a printed line; those left when `seconds` have passed are not run."""
    ends, rows = time.monotonic() + seconds, []
    for name, job in jobs.items():
        left = ends - time.monotonic()
        result = measure(job["script"], job, timeout_seconds=left) if left > 30 else {"error": "no time was left"}
        if "error" not in result:
            result = with_rates(result, job)
        rows.append({"rung": name, "job": job} | result)
        print(line_of(rows[-1]), flush=True)
    return rows


def line_of(row: dict[str, Any]) -> str:
    """A rung for people."""
    if "error" in row:
        return f"{row['rung']:60s} {row['error']}"
    memory = f"  {row['peak_allocated_bytes'] / 1e9:6.1f} GB" if row["peak_allocated_bytes"] else ""
    mfu = f"  {row['mfu_of_989_tflops']:5.1%}" if row["mfu_of_989_tflops"] else ""
    return (
        f"{row['rung']:60s} {row['tokens_per_second']:9,.0f} tokens/s  {row['samples_per_second']:7.1f} samples/s"
        f"{mfu}{memory}"
    )


def work(arguments: str, workers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """A worker's side of `measure`: does the job of its `kind` and prints the result as one line."""
    import torch

    job = json.loads(arguments)
    if job["device"] == "cpu":
        torch.set_num_threads(1)
    try:
        result = workers[job["kind"]](job)
    except torch.OutOfMemoryError:
        result = {"error": OUT_OF_MEMORY}
    print("\n" + json.dumps(result), flush=True)
