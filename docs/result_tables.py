"""Tables of README.md and docs/ that are made from benchmarks/results: speed, verdicts, GPUs, ranks, rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def result_tables(tables: Mapping[str, Callable[[dict[str, Any]], str]]) -> str:
    """The stored results of `tables` as Markdown, each with its machine and command."""
    parts = [table(read_result(name)) for name, table in tables.items() if (RESULTS / f"{name}.json").is_file()]
    return "\n\n".join(parts) if parts else "Nothing yet."


def read_result(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def where_of(result: dict[str, Any]) -> str:
    machine = result["machine"]
    sets = ", ".join(machine["bf16"]) or "no bf16 instructions"
    return (
        f"{machine['processor']}, {machine['cores']} cores ({sets}), {result['date'][:10]}, "
        f"torch {result['versions']['torch']}: `{result['command']}`"
    )


def trl_table(result: dict[str, Any]) -> str:
    """cpu_vs_trl.json: rates, memory and the ratios."""
    lines = [
        f"**Training speed against TRL {result['versions']['trl']} + PEFT {result['versions']['peft']}** "
        f"({result['rows']['from']} rows, LoRA r={result['shared']['adapter']['rank']} on all linear layers, "
        f"{result['rows']['rows_per_step']} rows per step, real tokens without padding). {where_of(result)}",
        "",
        "| side | ranks x threads | tokens/s, median (range) | runs | peak memory | padding |",
        "|---|---|---|---|---|---|",
    ]
    for name, side in result["sides"].items():
        low, high = side["range_tokens_per_second"]
        lines.append(
            f"| {name} | {side.get('ranks', 1)} x {side['threads']} | {side['median_tokens_per_second']:.0f} "
            f"({low:.0f} to {high:.0f}) | {side['runs']} | {side['median_peak_memory_bytes'] / 1e9:.2f} GB "
            f"| {side['padding_share']:.0%} |"
        )
    lines += ["", "| ratio, round by round | median | range | rounds | peak memory |", "|---|---|---|---|---|"]
    for name, ratio in result["ratios"].items():
        low, high = ratio["range"]
        memory = f"{ratio['peak_memory_share']:.0%}" if "peak_memory_share" in ratio else "-"
        lines.append(f"| {name} | {ratio['median']:.2f} | {low:.2f} to {high:.2f} | {ratio['runs']} | {memory} |")
    gaps = "; ".join(f"{name}: at most {max(gap):.1e}" for name, gap in result["loss_gaps"].items())
    return "\n".join([*lines, "", f"Loss gap per step: {gaps}."])


def ladder_table(result: dict[str, Any]) -> str:
    """cpu_ladder.json: what each technique brings, and the products alone."""
    lines = [
        f"**What each technique brings** (SmolLM2-135M, LoRA r=8, {result['rows_per_step']} rows per step, one thread "
        f"unless said). {where_of(result)}",
        "",
        "| rung | tokens/s, median (range) | runs | times the first | peak memory |",
        "|---|---|---|---|---|",
    ]
    first = result["rungs"][0]["median_tokens_per_second"]
    for rung in result["rungs"]:
        rate, (low, high) = rung["median_tokens_per_second"], rung["range_tokens_per_second"]
        lines.append(
            f"| {rung['rung']} | {rate:.0f} ({low:.0f} to {high:.0f}) | {rung['runs']} | {rate / first:.1f} "
            f"| {rung['median_peak_memory_bytes'] / 1e9:.2f} GB |"
        )
    for name, top in result["ceilings"].items():
        flops = f"{top['flops_per_second'] / 1e9:.0f} GFLOP/s"
        lines.append(f"| {name} ({flops}) | {top['tokens_per_second']:.0f} | | | |")
    return "\n".join([*lines, "", f"What stands between: {result['what_stands_between']}."])


def scaling_table(result: dict[str, Any]) -> str:
    """cpu_scaling.json: one row for each thing that is varied."""
    lines = [f"**Cost as work grows** (tokens/s on one thread, LoRA on SmolLM2-135M). {where_of(result)}", ""]
    names = {"length": "tokens per row", "rows": "rows of 128 tokens per pass", "rank": "rank"}
    cliffs = []
    for varied, series in result["series"].items():
        cells = [f"{point[varied]}: {point['tokens_per_second']:.0f}" for point in series]
        lines.append(f"- {names[varied]}: {', '.join(cells)}")
        cliffs += [f"{names[varied]} {p[varied]}: {p['explanation']}" for p in series if p["is_cliff"]]
    return "\n".join([*lines, "", f"Cliffs: {'. '.join(cliffs) if cliffs else 'none'}."])


def loss_head_table(result: dict[str, Any]) -> str:
    """loss_head.json: processor time of head and cross-entropy, forward and backward."""
    lines = [
        f"**Loss head** ({result['vocabulary']:,} tokens x {result['hidden']}, one thread). {where_of(result)}",
        "",
        "| products | head | taught tokens | whet's own | torch's linear_cross_entropy | full logits |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        own, torchs, full = (f"{1000 * row['median_seconds'][n]:.0f} ms" for n in ("chunked", "torch", "full logits"))
        head = "trained" if row["trains_head"] else "frozen"
        lines.append(f"| {row['dtype']} | {head} | {row['taught_tokens']} | {own} | {torchs} | {full} |")
    return "\n".join(lines)


GPU_BENCHMARKS = {
    "gpu_smoke": "a 1B Llama on CUDA against float32 on the CPU, and continued from its middle",
    "gpu_lora_8b": "LoRA of rank 32 on Llama-3.1-8B, from transformers with PEFT to float8 and shared prefix; TRL",
    "gpu_sft_8b": "all weights of Llama-3.1-8B on one card: float32 masters, moments of 8 bits",
    "gpu_smollm2": "SmolLM2 of 135M, 360M and 1.7B: LoRA and all weights",
}
"""script -> what it measures"""


def gpu_table() -> str:
    """What the benchmarks of a GPU measured, or that they did not yet."""
    lines = ["| what | script | measured |", "|---|---|---|"]
    for name, what in GPU_BENCHMARKS.items():
        found = "not measured on GPU"
        if (RESULTS / f"{name}.json").is_file():
            found = gpu_figures(read_result(name))
        lines.append(f"| {what} | `benchmarks/{name}.py` | {found} |")
    return "\n".join(lines)


def gpu_figures(result: dict[str, Any]) -> str:
    """Every rung of a ladder, or what was checked, with the card and the day."""
    where = f"{result['machine']['gpu']}, {result['date'][:10]}"
    rungs = [rung for rung in result.get("rungs", ()) if "error" not in rung]
    if not rungs:
        num_passed = sum(check["passed"] for check in result["checks"].values())
        return f"{num_passed} of {len(result['checks'])} checks passed ({where})"
    told = [
        f"{rung['rung']}: {rung['tokens_per_second']:,.0f} tokens/s, {rung['samples_per_second']:.0f} samples/s, "
        f"{rung['mfu_of_989_tflops']:.0%} of 989 TFLOP/s, {rung['peak_allocated_bytes'] / 1e9:.1f} GB"
        for rung in rungs
    ]
    return "<br>".join([*told, where])


def parity_table(result: dict[str, Any]) -> str:
    """adam8bit_parity.json: how far from float32 other ways to hold weights and moments end."""
    lines = [
        f"**Weights and moments in fewer bits** (a toy Llama, {result['steps']} steps, {len(result['seeds'])} seeds, "
        f"all weights trained; mean loss of the last steps). {where_of(result)}",
        "",
        "| how | loss against AdamW in float32 | seed by seed |",
        "|---|---|---|",
    ]
    for name, way in result["ways"].items():
        gaps = ", ".join(f"{gap:+.2%}" for gap in way["relative_gaps"])
        lines.append(f"| {name} | {way['mean_gap']:+.2%} | {gaps} |")
    return "\n".join(lines)


def demo_table(result: dict[str, Any]) -> str:
    """demo_seeds.json: base against tuned, seed by seed."""
    lines = [
        f"**The demo, seed by seed**: base against tuned on 128 held-out problems each. {where_of(result)}",
        "",
        "| seed | task | base | tuned | difference (95 % interval) | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        for name, c in run["comparisons"].items():
            base, tuned = c["base_accuracy"]["estimate"], c["tuned_accuracy"]["estimate"]
            middle, low, high = (f"{100 * c['difference'][key]:+.1f}" for key in ("estimate", "low", "high"))
            lines.append(
                f"| {run['seed']} | {name} | {base:.1%} | {tuned:.1%} "
                f"| {middle} points ({low} to {high}) | {c['verdict']} |"
            )
    minutes = [(run["training_seconds"] + run["answering_seconds"]) / 60 for run in result["runs"]]
    rates = [run["tokens_per_second"] for run in result["runs"]]
    memory = max(run["training_peak_memory_bytes"] for run in result["runs"]) / 1e9
    return "\n".join(
        [*lines, "", f"Training and answering took {min(minutes):.1f} to {max(minutes):.1f} minutes, at "
         f"{min(rates):.0f} to {max(rates):.0f} training tokens/s; peak memory of training {memory:.2f} GB."]
    )  # fmt: skip


def generation_table(result: dict[str, Any]) -> str:
    """generation.json: whet against transformers' generate, pair by pair, and whet alone."""
    settings, alone = result["settings"], result["whet_alone"]
    lines = [
        f"**Generation** ({result['prompts']}, {result['dtype'].removeprefix('torch.')}, {result['threads']} threads): "
        f"{settings['long_rows']} answers of {settings['long_tokens']} tokens, {settings['long_batch_rows']} at a "
        f"time, in {alone['seconds']:.0f} s ({alone['tokens_per_second']:.0f} tokens/s); peak memory "
        f"{result['peak_memory_bytes'] / 1e9:.2f} GB. Against transformers' `generate`, {settings['rows']} rows, "
        f"{settings['batch_rows']} at a time, {settings['new_tokens']} new tokens. {where_of(result)}",
        "",
        "| whet, merged weights, times faster than | full length, median (range) | ended by stop tokens | pairs |",
        "|---|---|---|---|",
    ]
    for key, name in (
        ("merged", "`generate` with the merged weights"),
        ("unmerged", "`generate` with PEFT's adapters attached"),
        ("merging_instead_of_attaching", "whet with the adapters attached"),
    ):
        cells = [
            f"{each['times_faster']:.2f} ({each['range'][0]:.2f} to {each['range'][1]:.2f})"
            for each in (result["full_length"][key], result["stops"][key])
        ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {result['full_length'][key]['pairs']} |")
    if (loop := result.get("one_question_a_call")) is not None:
        low, high = loop["unmerged"]["range"]
        lines.append(
            f"| `generate` in a loop, one of {loop['rows']} questions a call, adapters attached "
            f"| {loop['unmerged']['times_faster']:.1f} ({low:.1f} to {high:.1f}) | | {loop['unmerged']['pairs']} |"
        )
    same = result["same_texts_in_float32"]
    return "\n".join([*lines, "", f"The same greedy text in float32: {same['equal']} of {same['rows']} rows."])


def verdict_table(result: dict[str, Any]) -> str:
    """verdicts.json: real runs and what is said of them."""
    lines = [
        f"**Two real runs on SmolLM2-135M, as they came out**: {where_of(result)}",
        "",
        "| run | set | rows | metric | base | tuned | difference (95 % interval) | adjusted p | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in ("fiqa", "gsm8k"):
        for dataset, c in result[run]["comparisons"].items():
            for metric in c["metrics"]:
                if metric["verdict"] is None:
                    continue
                change = metric["difference"]
                lines.append(
                    f"| {run} | {dataset}{' (guard)' if c['role'] == 'guard' else ''} | {metric['num_rows']} "
                    f"| {metric['name']} | {metric['base_mean']:.4g} | {metric['tuned_mean']:.4g} "
                    f"| {change['estimate']:+.3g} ({change['low']:+.3g} to {change['high']:+.3g}) "
                    f"| {metric['adjusted_p']:.2g} | {metric['verdict']} |"
                )
    return "\n".join(lines)


def ranks_table(result: dict[str, Any]) -> str:
    """ranks_vs_threads.json: one rank on each core against one process on all of them."""
    rows = result["rows"]["rows_per_step"]
    lines = [
        f"**Ranks against threads** (SmolLM2-135M, LoRA, {rows} rows a step). {where_of(result)}",
        "",
        "| side | ranks x threads | passes x rows | tokens/s, median (range) | runs | communication a step |",
        "|---|---|---|---|---|---|",
    ]
    for name, side in result["sides"].items():
        low, high = side["range_tokens_per_second"]
        lines.append(
            f"| {name} | {side['ranks']} x {side['threads']} | {side['passes_at_a_time']} x {side['rows_per_pass']} "
            f"| {side['median_tokens_per_second']:.0f} ({low:.0f} to {high:.0f}) | {side['runs']} "
            f"| {1e3 * side['median_communication_seconds']:.0f} ms |"
        )
    for name, ratio in result["ratios"].items():
        low, high = ratio["range"]
        lines.append(f"\n{name}: {ratio['median']:.2f} ({low:.2f} to {high:.2f}, {ratio['runs']} rounds).")
    return "\n".join(lines)


def many_rows_table(result: dict[str, Any]) -> str:
    """many_rows.json: seconds and bytes of the order of very many rows."""
    lines = [
        f"**The order of {result['rows']:,} rows**, lengths of 16 bits, global batch {result['global_batch']} on "
        f"{result['world_size']} ranks; seconds of processor time. {where_of(result)}",
        "",
        "| unit | first epoch | next epoch | a step | bytes of a row at the peak |",
        "|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        lines.append(
            f"| {case['case']} | {case['first_epoch_seconds']:.1f} s | {case['next_epoch_seconds']:.1f} s "
            f"| {1e3 * case['median_step_seconds']:.1f} ms | {case['peak_bytes_per_row']:.0f} |"
        )
    return "\n".join(lines)


TABLES = {
    "cpu_vs_trl": trl_table,
    "demo_seeds": demo_table,
    "generation": generation_table,
    "verdicts": verdict_table,
}


SPEED_TABLES = {
    "cpu_ladder": ladder_table,
    "ranks_vs_threads": ranks_table,
    "cpu_scaling": scaling_table,
    "loss_head": loss_head_table,
    "adam8bit_parity": parity_table,
}
