"""The tables of docs/scale.md, computed from whet.estimate when the page is refreshed; none of them is measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from whet.data.sampler import balance
from whet.errors import RecipeError
from whet.estimate.disk import Method, checkpoint_bytes
from whet.estimate.memory import FLOAT32_BYTES, Job
from whet.estimate.network import ETHERNET_NODES, HOPPER_NODES, RING_LATENCY, Network
from whet.estimate.scale import (
    H100,
    H200,
    Card,
    Point,
    Rows,
    choose,
    operations_per_token,
    point,
    sharings,
    tokens_to_hide_network,
)
from whet.estimate.traffic import Sharing, calls, sent_bytes, tensor_calls
from whet.models.families import KNOWN, num_adapter_parameters, num_parameters
from whet.recipe.resolve import resolve
from whet.recipe.schema import Adapter, Batch, Data, Recipe, Source

LENGTHS = Path(__file__).parents[1] / "benchmarks" / "lengths"
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
MODELS = {"8B": "meta-llama/Llama-3.1-8B", "70B": "meta-llama/Llama-3.1-70B"}
METHODS = {"LoRA, rank 32": Adapter(rank=32), "all weights": Adapter(method="none")}
ROWS = Rows(mean_length=240, taught_share=0.62, tokens_per_pass=8192)
"""MetaMathQA's, by its card's bytes; passes as long as bring speed (estimate/memory.py)"""
GLOBAL_BATCH = 128
SMALLER_PASSES = (8192, 4096, 2048)


def job_of(model: str, adapter: Adapter) -> Job:
    """A job on a GPU with the defaults of a recipe."""
    shape, is_adapter = KNOWN[MODELS[model]], adapter.method != "none"
    return Job(
        num_layers=shape.num_layers, hidden=shape.hidden, intermediate=shape.intermediate,
        query_size=shape.num_heads * shape.head_dim, key_size=shape.num_kv_heads * shape.head_dim,
        num_heads=shape.num_heads, vocab=shape.vocab, num_base=num_parameters(shape),
        num_trainable=num_adapter_parameters(shape, adapter)[0] if is_adapter else num_parameters(shape),
        trains_all=not is_adapter, is_fused=is_adapter, narrow_values=7 * adapter.rank if is_adapter else 0,
        compute_bytes=2, is_tied=shape.tie_embeddings, device="cuda",
    )  # fmt: skip


def constants() -> str:
    """What is put in, and who says so."""
    lines = ["| constant | value | source |", "|---|---|---|"]
    for card in (H100, H200):
        value = f"{card.memory_bytes / 1e9:.0f} GB, {card.flops / 1e12:.0f} TFLOP/s in bfloat16"
        lines.append(f"| {card.name} | {value} | {card.source} |")
    lines.append(f"| memory that training may fill | {H100.usable_share:.0%} | assumed |")
    inside, between = HOPPER_NODES.inside, HOPPER_NODES.between
    for name, link in (
        ("a GPU to its node", inside), ("a GPU to other nodes", between),
        ("the same over Ethernet", ETHERNET_NODES.between),
    ):  # fmt: skip
        lines.append(f"| {name} | {link.bytes_per_second / 1e9:.3g} GB/s one way | {link.source} |")
    hops = f"{1e6 * inside.hop_seconds:g} and {1e6 * between.hop_seconds:g} us a hop in a node and between nodes"
    lines.append(f"| latency | {hops}, {1e6 * HOPPER_NODES.start_seconds:g} us a collective | {RING_LATENCY} |")
    rows = f"{ROWS.mean_length:g} tokens, {ROWS.taught_share:.0%} taught"
    lines.append(f"| a sample | {rows} | MetaMathQA with Llama 3's tokenizer, estimated from its size |")
    return "\n".join(lines)


def _fitting(job: Job, num_gpus: int, card: Card) -> Point:
    """With the longest pass that fits anywhere; where none does, what the shortest needs."""
    points = [
        choose(job, Rows(mean_length=ROWS.mean_length, taught_share=ROWS.taught_share, tokens_per_pass=tokens),
               num_gpus, card, HOPPER_NODES)
        for tokens in SMALLER_PASSES
    ]  # fmt: skip
    return next((each for each in points if each.fits), points[-1])


def points() -> str:
    """Memory and step time for every model, method, card and number of GPUs."""
    parts = []
    for model in MODELS:
        for method, adapter in METHODS.items():
            job = job_of(model, adapter)
            tables = {card.name: _table([_fitting(job, n, card) for n in GPUS]) for card in (H100, H200)}
            for name, table in tables.items():
                title = f"**{model}, {method}, {name}**"
                is_same = name != H100.name and table == tables[H100.name]
                parts.append(f"{title}: as on {H100.name}." if is_same else f"{title}\n\n{table}")
    return "\n\n".join(parts)


def _table(found: list[Point]) -> str:
    lines = [
        "| GPUs | strategy | recompute | tokens a pass | held | gathered | activations | total GB "
        "| compute s | network beside / waiting s | step s | tokens/s | computing |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        sharing, p = each.sharing, each.parts
        held = sum(p[name] for name in ("process", "weights", "gradients", "moments"))
        gathered = p.get("gathered", 0) + p.get("reducing", 0)
        rest = p["activations"] + p["work"] + p["slack"]
        size = f"{held / 1e9:.1f} | {gathered / 1e9:.1f} | {rest / 1e9:.1f} | {each.memory_bytes / 1e9:.1f}"
        head = (
            f"| {sharing.num_ranks} | {_strategy(sharing)} | {each.recompute} | {each.tokens // sharing.num_ranks:,} "
        )
        if not each.fits:
            lines.append(f"{head}| {size}: does not fit | | | | | |")
            continue
        network = f"{each.overlapped_seconds:.2f} / {each.waiting_seconds:.3f}"
        lines.append(
            f"{head}| {size} | {each.compute_seconds:.2f} | {network} | {each.step_seconds:.2f} "
            f"| {each.tokens_per_second:,.0f} | {each.efficiency:.0%} |"
        )
    return "\n".join(lines)


def _strategy(sharing: Sharing) -> str:
    if sharing.num_ranks == 1:
        return "one"
    return f"hsdp {sharing.num_replicas} x {sharing.shards}" if sharing.strategy == "hsdp" else sharing.strategy


def global_batch() -> str:
    """One global batch of the guides on ever more GPUs: 8B LoRA, weights on every one."""
    job = job_of("8B", METHODS["LoRA, rank 32"])
    data = Data(train=(Source(source="rows.jsonl"),))
    recipe = Recipe(name="a", output="b", data=data, batch=Batch(global_size=GLOBAL_BATCH))
    lines = [
        "| GPUs | samples a GPU | tokens a GPU | passes | step s | tokens/s | computing |",
        "|---|---|---|---|---|---|---|",
    ]
    for num_gpus in GPUS:
        try:
            resolve(recipe, world_size=num_gpus, num_samples=10_000)
        except RecipeError as error:
            lines.append(f"| {num_gpus} | refused: {error.mend} | | | | | |")
            continue
        samples = GLOBAL_BATCH // num_gpus
        tokens = samples * ROWS.mean_length
        passes = -(-tokens // ROWS.tokens_per_pass)
        rows = Rows(mean_length=ROWS.mean_length, taught_share=ROWS.taught_share, tokens_per_pass=int(tokens / passes))
        sharing = next(sharings(num_gpus, HOPPER_NODES.gpus_per_node))
        each = point(job, rows, sharing, H100, HOPPER_NODES, recompute="none", passes=int(passes))
        lines.append(
            f"| {num_gpus} | {samples} | {tokens:,.0f} | {passes:.0f} | {each.step_seconds:.3f} "
            f"| {each.tokens_per_second:,.0f} | {each.efficiency:.0%} |"
        )
    return "\n".join(lines)


def gathering() -> str:
    """From how many tokens on a pass hides the gathering of sharded weights."""
    lines = [
        "| job | ranks of one copy | network | sent by a rank in a step | beside computing | tokens that hide it |",
        "|---|---|---|---|---|---|",
    ]
    for model, method in (("70B", "LoRA, rank 32"), ("70B", "all weights"), ("8B", "all weights")):
        job = job_of(model, METHODS[method])
        for num_gpus, strategy, network in (
            (8, "fsdp", HOPPER_NODES), (64, "hsdp", HOPPER_NODES), (64, "fsdp", HOPPER_NODES),
            (512, "fsdp", HOPPER_NODES), (64, "hsdp", ETHERNET_NODES), (64, "fsdp", ETHERNET_NODES),
        ):  # fmt: skip
            sharing = next(each for each in sharings(num_gpus, 8) if each.strategy == strategy)
            lines.append(_gathering_line(f"{model}, {method}", job, sharing, network))
    return "\n".join(lines)


def _gathering_line(name: str, job: Job, sharing: Sharing, network: Network) -> str:
    made = calls(job, sharing)
    beside = sum(call.seconds(network) for call in made if call.is_overlapped)
    needed = tokens_to_hide_network(job, ROWS, sharing, H100, network)
    kind = "Ethernet" if network is ETHERNET_NODES else "InfiniBand" if sharing.num_ranks > 8 else "NVLink"
    ranks = f"{sharing.shards}" if sharing.num_replicas == 1 else f"{sharing.shards}, {sharing.num_replicas} copies"
    return f"| {name} | {ranks} | {kind} | {sent_bytes(made) / 1e9:,.1f} GB | {beside:.2f} s | {needed:,.0f} |"


def shared_layers() -> str:
    """What eight GPUs of a node that share every layer wait for each other."""
    lines = [
        "| job | tokens a pass of all eight | compute s | sent by a rank | network waiting s | computing |",
        "|---|---|---|---|---|---|",
    ]
    for method, adapter in METHODS.items():
        job = job_of("70B", adapter)
        for tokens in (2048, 8192, 32_768):
            made = tensor_calls(job, tokens, 8)
            rate = 8 * H100.flops * H100.reached_share
            compute = tokens * operations_per_token(job, ROWS, "full") / rate
            waiting = sum(call.seconds(HOPPER_NODES) for call in made)
            lines.append(
                f"| 70B, {method} | {tokens:,} | {compute:.2f} | {sent_bytes(made) / 1e9:.1f} GB | {waiting:.2f} "
                f"| {compute / (compute + waiting):.0%} |"
            )
    return "\n".join(lines)


def checkpoints() -> str:
    """Bytes of a checkpoint, of a rank of 64, and the time that disks need."""
    lines = [
        "| job | one checkpoint | of one of 64 ranks | at 2 GB/s | at 10 GB/s | at 40 GB/s |",
        "|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for name, adapter in METHODS.items():
            job = job_of(model, adapter)
            method: Method = "none" if job.trains_all else "lora"
            size = checkpoint_bytes(job.num_trainable, job.num_base, method, saved_bytes_per_weight=FLOAT32_BYTES)
            share = f"{size / 64 / 1e9:.2f} GB" if job.trains_all else "one file, by rank 0"
            seconds = " | ".join(f"{size / rate / 1e9:,.1f} s" for rate in (2, 10, 40))
            lines.append(f"| {model}, {name} | {size / 1e9:,.1f} GB | {share} | {seconds} |")
    return "\n".join(lines)


def loading() -> str:
    """What the ranks of a node take of the host's memory and of the disks before the weights are cut."""
    lines = [
        "| job | host memory of a rank | of the eight of a node | read by them, at 10 GB/s a node |",
        "|---|---|---|---|",
    ]
    for model, model_id in MODELS.items():
        for name, adapter in METHODS.items():
            num = num_parameters(KNOWN[model_id])
            held = num * (FLOAT32_BYTES if adapter.method == "none" else 2)
            read = 8 * 2 * num / 10e9
            lines.append(f"| {model}, {name} | {held / 1e9:.0f} GB | {8 * held / 1e9:,.0f} GB | {read:.0f} s |")
    return "\n".join(lines)


def token_balance() -> str:
    """Tokens of the fullest rank over the mean, longest first against dealt in turn, on real lengths."""
    worlds = (2, 4, 8, 16, 32, 64)
    heads = " | ".join(f"{world} ranks" for world in worlds)
    lines = [f"| rows | dealt | {heads} |", "|---|---|" + "---|" * len(worlds)]
    for name in ("gsm8k", "metamath", "fiqa"):
        stored = json.loads((LENGTHS / f"{name}.json").read_text(encoding="utf-8"))
        lengths = np.array([tokens for tokens, _ in stored["tokens_and_taught"]])
        draws = np.random.default_rng(0).choice(lengths, (50, GLOBAL_BATCH)).tolist()
        for how, deal in (("longest first (whet)", balance), ("in turn", _in_turn)):
            cells = " | ".join(f"+{_excess(draws, world, deal):.1%}" for world in worlds)
            lines.append(f"| {name} | {how} | {cells} |")
    return "\n".join(lines)


def _in_turn(tokens: list[int], num_passes: int) -> list[list[int]]:
    return [list(range(number, len(tokens), num_passes)) for number in range(num_passes)]


def _excess(draws: list[list[int]], world: int, deal: Callable[[list[int], int], list[list[int]]]) -> float:
    """Mean over steps: how much longer than the mean rank's the work of the fullest rank is."""
    found = []
    for tokens in draws:
        loads = [sum(tokens[i] for i in units) for units in deal(tokens, world)]
        found.append(max(loads) / statistics.mean(loads) - 1)
    return statistics.mean(found)


TABLES = {
    "constants": constants,
    "points": points,
    "global batch": global_batch,
    "gathering": gathering,
    "shared layers": shared_layers,
    "checkpoints": checkpoints,
    "loading": loading,
    "token balance": token_balance,
}
"""name in the page -> the table"""
