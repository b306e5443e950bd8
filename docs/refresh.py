"""Copy live code and measured results into the pages that show them; `--check` only says which are out of date.

A page asks for code with `<!-- code: PATH#NAME -->` before a fenced block; the source marks it with
`# docs: start-NAME` and `# docs: end-NAME`. `<!-- results -->` ... `<!-- end results -->` holds the tables made from
benchmarks/results, `<!-- speed results -->` those that say what makes the speed, `<!-- gpu results -->` those of a GPU,
`<!-- recipes -->` the table of recipes/, `<!-- metrics -->` that of the metrics, `<!-- faults -->` those of the fault
suite, `<!-- fuzz -->` and `<!-- soak -->` those of long_tables.py,
`<!-- scale: NAME -->` those of scale_tables.py, `<!-- estimates: NAME -->` those of estimate_tables.py, and so on
(`seeds`, `verbs`); each has its `end` marker.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from estimate_tables import COMPUTED as ESTIMATE_TABLES
from estimate_tables import grid_table
from long_tables import fuzz_table, soak_table
from reliability_table import fault_tables
from scale_tables import TABLES as SCALE_TABLES
from seed_tables import last_run, seed_table
from verb_tables import verb_reference

from whet.cli.preview import preview_run
from whet.evaluation.metrics import METRICS
from whet.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = (
    "docs/follow-a-batch.md",
    "docs/evaluation.md",
    "docs/speed.md",
    "docs/scale.md",
    "docs/reliability.md",
    "docs/estimates.md",
    "docs/verbs.md",
    "docs/seeds-line-by-line.md",
    "README.md",
    "recipes/README.md",
)
RESULTS = ROOT / "benchmarks" / "results"
_RESULTS = re.compile(r"(<!-- results -->).*?(<!-- end results -->)", re.DOTALL)
_SPEED = re.compile(r"(<!-- speed results -->).*?(<!-- end speed results -->)", re.DOTALL)
_GPU = re.compile(r"(<!-- gpu results -->).*?(<!-- end gpu results -->)", re.DOTALL)
_RECIPES = re.compile(r"(<!-- recipes -->).*?(<!-- end recipes -->)", re.DOTALL)
_FAULTS = re.compile(r"(<!-- faults -->).*?(<!-- end faults -->)", re.DOTALL)
_FUZZ = re.compile(r"(<!-- fuzz -->).*?(<!-- end fuzz -->)", re.DOTALL)
_SOAK = re.compile(r"(<!-- soak -->).*?(<!-- end soak -->)", re.DOTALL)
_METRICS = re.compile(r"(<!-- metrics -->).*?(<!-- end metrics -->)", re.DOTALL)
_SCALE = re.compile(r"(<!-- scale: (?P<name>[^>]+?) -->).*?(<!-- end scale -->)", re.DOTALL)
_ESTIMATES = re.compile(r"(<!-- estimates: (?P<name>[^>]+?) -->).*?(<!-- end estimates -->)", re.DOTALL)
_VERBS = re.compile(r"(<!-- verbs -->).*?(<!-- end verbs -->)", re.DOTALL)
_SEEDS = re.compile(r"(<!-- seeds: (?P<name>[^>]+?) -->).*?(<!-- end seeds -->)", re.DOTALL)
_BLOCK = re.compile(r"(<!-- code: (?P<path>[^#\s]+)#(?P<name>\S+) -->\n```\w*\n).*?(?=```)", re.DOTALL)


def live_code(path: str, name: str) -> str:
    """The lines between the two markers of `name` in `path`; ValueError when they are not there once each."""
    text = (ROOT / path).read_text(encoding="utf-8")
    parts = re.findall(rf"^# docs: start-{name}\n(.*?)^# docs: end-{name}\n", text, re.DOTALL | re.MULTILINE)
    if len(parts) != 1:
        raise ValueError(f"{path} has no single block named {name}")
    return str(parts[0]).strip() + "\n"


def refreshed(page: str) -> str:
    """The text of `page` with every code block as it is in the source now."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = _BLOCK.sub(lambda m: m[1] + live_code(m["path"], m["name"]), text)
    text = _RESULTS.sub(lambda m: f"{m[1]}\n{result_tables(TABLES)}\n{m[2]}", text)
    text = _SPEED.sub(lambda m: f"{m[1]}\n{result_tables(SPEED_TABLES)}\n{m[2]}", text)
    text = _GPU.sub(lambda m: f"{m[1]}\n{gpu_table()}\n{m[2]}", text)
    text = _SCALE.sub(lambda m: f"{m[1]}\n{scale_table(m['name'])}\n{m[3]}", text)
    text = _ESTIMATES.sub(lambda m: f"{m[1]}\n{estimate_table(m['name'])}\n{m[3]}", text)
    text = _SEEDS.sub(lambda m: f"{m[1]}\n{last_run() if m['name'] == 'run' else seed_table(m['name'])}\n{m[3]}", text)
    text = _FAULTS.sub(lambda m: f"{m[1]}\n{result_tables({'faults': fault_tables})}\n{m[2]}", text)
    text = _FUZZ.sub(lambda m: f"{m[1]}\n{result_tables({'fuzz': fuzz_table})}\n{m[2]}", text)
    text = _SOAK.sub(lambda m: f"{m[1]}\n{result_tables({'soak': soak_table})}\n{m[2]}", text)
    text = _METRICS.sub(lambda m: f"{m[1]}\n{metric_table()}\n{m[2]}", text)
    text = _VERBS.sub(lambda m: f"{m[1]}\n{verb_reference()}\n{m[2]}", text)
    return _RECIPES.sub(lambda m: f"{m[1]}\n{recipe_table()}\n{m[2]}", text)


def scale_table(name: str) -> str:
    """A table of docs/scale.md: computed, but for that of many rows."""
    return result_tables({"many_rows": many_rows_table}) if name == "many rows" else SCALE_TABLES[name]()


def estimate_table(name: str) -> str:
    """A table of docs/estimates.md: computed, but for that of measured runs."""
    return result_tables({"estimate_grid": grid_table}) if name == "grid" else ESTIMATE_TABLES[name]()


def metric_table() -> str:
    """Every metric with its unit, direction and source, from the table that scores."""
    words = {True: "more", False: "less", None: "neither"}
    lines = ["| metric | unit | better is | what it is |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {metric.unit} | {words[metric.higher_is_better]} | {metric.source} |"
        for name, metric in METRICS.items()
    ]
    return "\n".join(lines)


def recipe_table() -> str:
    """Every recipe with its numbers, from the file itself."""
    lines = [
        "| recipe | model | trains | data | steps | trainable weights | measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        name = path.relative_to(ROOT / "recipes").as_posix()
        preview = preview_run(load_recipe(path))
        adapter = preview.recipe.adapter
        method = "all weights" if adapter.method == "none" else f"LoRA, rank {adapter.rank}"
        rows = ", ".join(source.source for source in preview.recipe.data.train)
        steps = f"{preview.plan.total_steps:,}" if preview.plan else "unknown"
        if preview.recipe.train.fit_seconds is not None:
            steps = f"what fits into {preview.recipe.train.fit_seconds:g} s"
        trainable = f"{preview.weights.num_trainable:,}" if preview.weights else "unknown"
        header = path.read_text(encoding="utf-8").split("version:")[0]
        measured = "no" if re.search(r"Not\s+(# )?measured", header) else "yes"
        lines.append(
            f"| [{name}]({name}) | {preview.recipe.model.id} | {method} | {rows} | {steps} | {trainable} | {measured} |"
        )
    return "\n".join(lines)


def result_tables(tables: Mapping[str, Callable[[dict[str, Any]], str]]) -> str:
    """The stored results of `tables` as Markdown, each with its machine and command."""
    parts = [table(read_result(name)) for name, table in tables.items() if (RESULTS / f"{name}.json").is_file()]
    return "\n\n".join(parts) if parts else "Nothing yet."


def read_result(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def _where(result: dict[str, Any]) -> str:
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
        f"{result['rows']['rows_per_step']} rows per step, real tokens without padding). {_where(result)}",
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
        f"unless said). {_where(result)}",
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
    lines = [f"**Cost as work grows** (tokens/s on one thread, LoRA on SmolLM2-135M). {_where(result)}", ""]
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
        f"**Loss head** ({result['vocabulary']:,} tokens x {result['hidden']}, one thread). {_where(result)}",
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
        f"all weights trained; mean loss of the last steps). {_where(result)}",
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
        f"**The demo, seed by seed**: base against tuned on 128 held-out problems each. {_where(result)}",
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
        f"{settings['batch_rows']} at a time, {settings['new_tokens']} new tokens. {_where(result)}",
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
        f"**Two real runs on SmolLM2-135M, as they came out**: {_where(result)}",
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
        f"**Ranks against threads** (SmolLM2-135M, LoRA, {rows} rows a step). {_where(result)}",
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
        f"{result['world_size']} ranks; seconds of processor time. {_where(result)}",
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


def main() -> None:
    stale = [page for page in PAGES if refreshed(page) != (ROOT / page).read_text(encoding="utf-8")]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"out of date: {', '.join(stale)}; run python docs/refresh.py")
        return
    for page in stale:
        (ROOT / page).write_text(refreshed(page), encoding="utf-8")


if __name__ == "__main__":
    main()
