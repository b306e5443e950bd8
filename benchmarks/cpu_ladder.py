"""Claim: each technique of whet's training step brings what its rung says, on the way to the machine's own products.

SmolLM2-135M, LoRA of rank 8 on all linear layers, 8 GSM8K rows per step where WHET_TEST_DATA names a folder with them
(else generated problems), real tokens per second. Rungs add up; each run is a process of its own, and the rungs run in
turn, `--rounds` times. One thread on all rungs but the last two. The first step of a run is not measured.

The ceiling is measured in the same rounds: nothing but the products of the frozen weights of one step, forward and for
the gradient of their input, at the model's own shapes and number format. Last, one step of the highest rung on one
thread is profiled: what stands between it and the ceiling.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from machine import peak_memory_bytes, write_result

ROWS_PER_STEP = 8
FUNCTIONS = ("norm", "rotary", "swiglu")
BLOCKS = ("qkv", "mlp")
MODULES = ("adapter", *BLOCKS, *FUNCTIONS)
"""what `select.install` can leave out, in the order in which rungs take it in"""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What one rung computes with."""

    name: str
    is_padded: bool = False
    """batches of padded rows through transformers alone, as trainers do"""
    has_full_logits: bool = False
    dtype: str = "auto"
    off: tuple[str, ...] = ()
    keeps_memory: bool = True
    is_compiled: bool = False
    threads: int = 1
    ranks: int = 1


def rungs() -> list[Rung]:
    """From transformers with PEFT to all of whet."""
    float32 = {"dtype": "float32", "off": MODULES, "keeps_memory": False}
    found = [
        Rung(name="transformers + PEFT, padded, full logits, float32", is_padded=True, has_full_logits=True, **float32),
        Rung(name="+ no padding, attention per document", has_full_logits=True, **float32),
        Rung(name="+ loss head in blocks, taught positions only", **float32),
        Rung(name="+ frozen weights in bfloat16", off=MODULES, keeps_memory=False),
        Rung(name="+ fused LoRA layers", off=BLOCKS + FUNCTIONS, keeps_memory=False),
        Rung(name="+ fused q, k, v and feed-forward", off=FUNCTIONS, keeps_memory=False),
        Rung(name="+ norm, rotary and SwiGLU functions", keeps_memory=False),
        Rung(name="+ freed memory kept", keeps_memory=True),
    ]
    if find_spec("whet.kernels.compile"):
        found.append(Rung(name="(all, compiled per layer)", is_compiled=True))
    if len(os.sched_getaffinity(0)) > 1:
        found += [Rung(name="all, 2 threads", threads=2), Rung(name="all, 2 ranks of 1 thread", ranks=2)]
    return found


def work(job: dict[str, Any]) -> dict[str, Any] | None:
    """One run of a rung, in this process; None on ranks other than the first."""
    import torch

    import training_side
    from whet import allocator
    from whet.parallel import env as parallel_env

    torch.set_num_threads(job["threads"])
    if job["keeps_memory"]:
        allocator.keep_freed_memory()
    env = parallel_env.read_env()
    parallel_env.start(env, torch.device("cpu"))
    recipe = training_side.recipe_of(
        job["model"], dtype=job["dtype"], rows_per_step=ROWS_PER_STEP, rows_per_pass=ROWS_PER_STEP // env.world_size,
        source=training_side.gsm8k_source(job["num_steps"] * ROWS_PER_STEP), compile=job["is_compiled"],
    )  # fmt: skip
    run, _ = training_side.build(recipe, env=env)
    _leave_out(run.model, job)
    step = _plain_step(run, job) if job["has_full_logits"] else lambda n: training_side.run_steps(run, [n])[0].loss
    losses, ends = [], []
    for number in range(job["num_steps"]):
        losses.append(step(number))
        ends.append(time.monotonic())
    num_tokens = sum(run.rows(number).num_tokens for number in range(1, job["num_steps"]))
    result = {
        "tokens_per_second": num_tokens / (ends[-1] - ends[0]),
        "peak_memory_bytes": peak_memory_bytes() * env.world_size,
        "losses": losses,
        "kernels": dict(run.kernels),
    }
    if job.get("is_profiled"):
        result["profile"] = training_side.profiled(lambda: step(job["num_steps"] - 1))
    parallel_env.stop()
    return result if env.is_main else None


def _leave_out(model: Any, job: dict[str, Any]) -> None:
    from whet.kernels import select
    from whet.models.adapters import ADAPTER_NAME

    if job["off"]:
        select.install(model, adapter_name=ADAPTER_NAME, off=frozenset(job["off"]))
    if job["is_padded"]:
        select.uninstall(model)
        model.set_attn_implementation("sdpa")


def _plain_step(run: Any, job: dict[str, Any]) -> Any:
    """A step with the logits of all positions and torch's cross-entropy over them."""
    import torch

    def step(number: int) -> float:
        rows = run.rows(number)
        run.model.train()
        run.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in rows.batches:
            with run.dropout.micro_batch(number, batch):
                hidden, labels = _padded(run, batch) if job["is_padded"] else (run.loss_model.hidden(batch), None)
                labels = batch.labels_T if labels is None else labels
                logits_TV = run.loss_model.head(hidden).float()
                loss = torch.nn.functional.cross_entropy(logits_TV, labels, reduction="sum")
                (loss / rows.num_taught).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(run.trainables.named.values(), 1.0)
        run.optimizer.step()
        return total / rows.num_taught

    return step


def _padded(run: Any, batch: Any) -> tuple[Any, Any]:
    """(hidden states, labels) of the pack's documents as padded rows, both flat."""
    import torch

    width, pad = max(batch.lengths), torch.nn.utils.rnn.pad_sequence
    ids = pad(list(batch.ids_T.split(batch.lengths)), batch_first=True)
    labels = pad(list(batch.labels_T.split(batch.lengths)), batch_first=True, padding_value=-100)
    mask = torch.arange(width)[None] < torch.tensor(batch.lengths)[:, None]
    hidden = run.loss_model.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1), labels.flatten()


def ceiling(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens per second of nothing but the frozen weights' products of one step."""
    import torch

    import training_side
    from whet.models.load import load_pretrained
    from whet.recipe.schema import Model

    torch.set_num_threads(job["threads"])
    model = load_pretrained(Model(id=job["model"]), device=torch.device("cpu")).model
    head = model.get_output_embeddings()
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    recipe = training_side.recipe_of(
        job["model"], rows_per_step=ROWS_PER_STEP, rows_per_pass=ROWS_PER_STEP,
        source=training_side.gsm8k_source(ROWS_PER_STEP),
    )  # fmt: skip
    rows = training_side.build(recipe)[0].rows(0)
    jobs = [(weight, rows.num_tokens) for weight in weights] + [(head.weight, rows.num_taught)]
    inputs = {
        (n, size): torch.randn(n, size).to(weights[0].dtype) for weight, n in jobs for size in weight.shape
    }  # fmt: skip
    seconds = []
    with torch.no_grad():
        for _ in range(1 + job["num_steps"]):
            started = time.monotonic()
            for weight, n in jobs:
                torch.nn.functional.linear(inputs[n, weight.shape[1]], weight)
                torch.mm(inputs[n, weight.shape[0]], weight)
            seconds.append(time.monotonic() - started)
    flops = sum(4 * n * weight.numel() for weight, n in jobs)
    fastest = min(seconds[1:])
    return {"tokens_per_second": rows.num_tokens / fastest, "flops_per_second": flops / fastest, "seconds": fastest}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One job in processes of its own."""
    ranks = job.get("ranks", 1)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)) if ranks > 1 else ()
    variables = {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *launcher, __file__, "--worker", json.dumps(job)], env=os.environ | variables, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{job['name']} failed:\n{done.stderr[-4000:]}")
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))


def climb(model: str, rounds: int, num_steps: int) -> dict[str, Any]:
    """All rungs and the ceiling in turn, and the profile."""
    jobs = [vars(rung) | {"model": model, "num_steps": num_steps} for rung in rungs()]
    # on as many threads as there are: what the machine can do at all, and what one thread can
    top = {f"products alone, {n} threads": {"name": "ceiling", "is_ceiling": True, "model": model, "threads": n,
           "num_steps": 3} for n in sorted({1, max(job["threads"] * job["ranks"] for job in jobs)})}  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name, job in [*((job["name"], job) for job in jobs), *top.items()]:
            runs.setdefault(name, []).append(run := measure(job))
            memory = f"{run['peak_memory_bytes'] / 1e9:6.2f} GB" if "peak_memory_bytes" in run else ""
            print(f"{name:52s} {run['tokens_per_second']:9.1f} tokens/s {memory}", flush=True)
    highest = next(job for job in jobs if job["name"] == "+ freed memory kept")
    return summarize(runs, [job["name"] for job in jobs], top, measure(highest | {"is_profiled": True})["profile"])


def summarize(
    runs: dict[str, list[dict[str, Any]]], names: list[str], top: dict[str, Any], profile: dict[str, Any]
) -> dict[str, Any]:
    """The table, the share of the ceiling that is reached, and what stands between."""
    rows = []
    for name in names:
        rates = [run["tokens_per_second"] for run in runs[name]]
        rows.append({
            "rung": name, "runs": len(rates), "median_tokens_per_second": statistics.median(rates),
            "range_tokens_per_second": [min(rates), max(rates)], "first_loss": runs[name][0]["losses"][0],
            "median_peak_memory_bytes": statistics.median(run["peak_memory_bytes"] for run in runs[name]),
        })  # fmt: skip
    ceilings = {name: {key: statistics.median(run[key] for run in runs[name])
                       for key in ("tokens_per_second", "flops_per_second")} for name in top}  # fmt: skip
    one, most = (ceilings[name]["tokens_per_second"] for name in (min(ceilings), max(ceilings)))
    reached = next(row for row in rows if row["rung"] == "+ freed memory kept")["median_tokens_per_second"]
    best = max(rows, key=lambda row: row["median_tokens_per_second"])
    parts = ", ".join(f"{name} {share:.0%}" for name, share in sorted(profile["shares"].items(), key=lambda x: -x[1]))
    between = (
        f"one thread reaches {reached / one:.0%} of the products alone; {profile['share_of_products']:.0%} of a "
        f"profiled step are products (adapters' and attention's among them). Shares of its parts: {parts}"
    )
    print(between)
    return {
        "rows_per_step": ROWS_PER_STEP, "rungs": rows, "ceilings": ceilings,
        "share_of_ceiling_one_thread": reached / one,
        "best": best["rung"], "share_of_ceiling_best": best["median_tokens_per_second"] / most,
        "what_stands_between": between, "profile": profile,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of every rung")
    parser.add_argument("--steps", type=int, default=2, help="measured steps after the warm-up step")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="built-in name or a folder")
    parser.add_argument("--quick", action="store_true", help="one round, one measured step; nothing is written")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        job = json.loads(args.worker)
        result = ceiling(job) if job.get("is_ceiling") else work(job)
        if result is not None:
            print("\n" + json.dumps(result), flush=True)
        return
    rounds, steps = (1, 1) if args.quick else (args.rounds, args.steps)
    result = climb(args.model, rounds, steps + 1)
    if not args.quick:
        write_result("cpu_ladder", claim=__doc__.splitlines()[0].removeprefix("Claim: "), result=result)


if __name__ == "__main__":
    main()
