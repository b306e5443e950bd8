"""A small run folder, written by hand, with a hostile string wherever data can stand."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _metrics(num_steps: int, text: str) -> str:
    lines: list[dict] = []
    for step in range(1, num_steps + 1):
        loss = 0.3 + 2 * math.exp(-step / num_steps * 5) + 0.1 * math.sin(step)
        line = {"kind": "step", "step": step, "loss": loss, "lr": 1e-4, "grad_norm": 0.5, "tokens_per_second": 1000.0}
        lines.append(line | {"batch_hash": text})
        if step == num_steps:
            counts = {"num_rows": 8, "sums/num_rows": 8, "seconds": 3.0}
            lines.append({"kind": "eval", "step": step, "sums/answer_accuracy": 0.5, f"score {text}": 1.0, **counts})
        if step % max(1, num_steps // 5) == 0:
            lines.append({"kind": "eval", "step": step, "loss": loss + 0.1, "num_taught": 10, "seconds": 1.0})
    lines.append({"kind": "event", "step": num_steps, "text": f"resumed {text}"})
    return "".join(json.dumps(line) + "\n" for line in lines)


def _answers(model: str, text: str) -> str:
    rows = [
        {
            "id": f"row-{i} {text}",
            "prompt": f"question {i} {text}",
            "text": f"{model} says {text}",
            "stopped": "length" if i % 3 == 0 else "stop_token",
            "num_new_tokens": 5,
            "seconds": 0.1,
            "extracted": text,
            "golds": [text, "42"],
            "is_correct": (i % 4 == 0) if model == "base" else (i % 2 == 0),
            "has_format": model == "tuned",
        }
        for i in range(40)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _comparison(text: str) -> dict:
    def interval(estimate: float) -> dict:
        return {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1, "level": 0.95}

    return {
        "dataset": f"sums {text}",
        "num_rows": 40,
        "base_accuracy": interval(0.25),
        "tuned_accuracy": interval(0.5),
        "difference": interval(0.25),
        "wins": 10,
        "losses": 0,
        "p_value": 0.002,
        "verdict": "better",
        "base_format_rate": 0.0,
        "tuned_format_rate": 1.0,
        "base_stop_rate": 0.65,
        "tuned_stop_rate": 0.65,
        "sentences": [f"tuned answered 20 of 40 right, base 10. {text}", f"second sentence {text}"],
        "role": "main",
        "primary": "answer_accuracy",
        "metrics": [
            _metric("answer_accuracy", "share, 0 or 1", 0.25, verdict="better"),
            _metric(f"seconds {text}", f"seconds {text}", -1.5, higher_is_better=False, verdict="better"),
            _metric("answer_length", "words", 30.0, higher_is_better=None, adjusted_p=None, detectable=None),
        ],
        "categories": [_metric(f"{name} {text}", "share, 0 or 1", 0.1) for name in ("open", "closed")],
        "gains": [{"example_id": f"row-{i} {text}", "base": 0.0, "tuned": 1.0} for i in (6, 2)],
        "setbacks": [{"example_id": f"row-3 {text}", "base": 1.0, "tuned": 0.5}],
        "seen_in_training": [f"row-1 {text}"],
        "verdict_without_seen": "better",
        "base_name": f"base {text}",
        "tuned_name": f"tuned {text}",
    }


def _metric(name: str, unit: str, difference: float, **changes: object) -> dict:
    found = {
        "name": name,
        "unit": unit,
        "higher_is_better": True,
        "num_rows": 38,
        "num_left_out": 2,
        "base_mean": 0.25,
        "tuned_mean": 0.25 + difference,
        "difference": {"estimate": difference, "low": difference - 0.1, "high": difference + 0.1, "level": 0.95},
        "p_value": 0.002,
        "adjusted_p": 0.004,
        "detectable": 0.125,
        "verdict": None,
    }
    return found | changes


def _benchmarks(text: str) -> dict:
    tasks = [
        {
            "task": f"gsm8k {text}",
            "metric": f"exact_match {text}",
            "unit": "share, 0 to 1",
            "num_rows": 1319,
            "base": {"value": 0.031, "stderr": 0.0048},
            "tuned": {"value": 0.052, "stderr": None},
            "difference": {"estimate": 0.021, "low": 0.005, "high": 0.037},
            "p_value": 0.01,
        },
        {"task": text, "metric": text, "unit": text, "base": None, "tuned": {}, "difference": None, "p_value": None},
    ]
    return {"tasks": tasks, "tool": f"lm-eval 0.4.9 {text}", "notes": [text]}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run(text, num_steps) -> a complete run folder with `text` in every string."""

    def make(text: str = "plain", num_steps: int = 50) -> Path:
        folder = tmp_path / "demo-run"
        account = {"num_rows": 100, "num_kept": 97, "num_tokens": 12345, "num_taught": 4567, "fingerprint": text}
        row = {"origin": text, "status": text, "reason": text, "num_tokens_cut": 7, "cut_from": text}
        counts = {"kept": 96, "truncated": 1, "duplicate": 0, "too long": 3, "bad": 0, "left out": 0}
        ledger = {"name": f"train {text}", "num_rows": 100, "counts": counts, "rows": [row] * 4}
        _write(folder / "run_plan.json", {"total_steps": num_steps, text: text, "list": [text, None, True]})
        _write(folder / "environment.json", {"whet": f"0.1.0{text}", "cpu": text})
        _write(folder / "ledger.json", {"sets": [ledger, ledger]})
        _write(folder / "data.json", {"train": account, "validation": account, "notes": [text]})
        _write(folder / "model.json", {"id": text, "revision": None, "weights_sha256": text, "note": text})
        summary = {"status": text, "seconds": 75.0, "tokens_per_second": 1000.5, "peak_memory_bytes": 2**30}
        split = {"bottleneck": f"31% waits {text}", "seconds_by_part": {"data": 23.25}, "startup_seconds": {text: 1.5}}
        _write(folder / "summary.json", summary | {"tokens": 99999, "kernels": {text: text}, **split})
        recipe = f"name: {text}\noutput: runs/demo\ndata: {{train: [{{source: rows.jsonl}}]}}\n"
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8", errors="surrogatepass")
        _write(folder / "settings.json", {f"optim.lr {text}": {"value": text, "origin": text}})
        (folder / "packages.txt").write_text(f"torch==2.13.0\n{' '.join(text.split())}\n", errors="surrogatepass")
        live = {"set": text, "id": text, "prompt": text, "text": text, "golds": [text], "is_correct": None}
        samples = "".join(json.dumps({"step": step, **live}) + "\n" for step in (10, 20))
        (folder / "samples.jsonl").write_text(samples)
        (folder / "metrics.jsonl").write_text(_metrics(num_steps, text))
        sums = folder / "evaluations" / "sums"
        _write(sums / "comparison.json", _comparison(text))
        _write(folder / "evaluations" / "lm-eval" / "results.json", _benchmarks(text))
        for model in ("base", "tuned"):
            (sums / f"{model}.jsonl").write_text(_answers(model, text))
            _write(
                sums / f"{model}.summary.json",
                {"model": model, "decoding": f"greedy {text}", "figures": {f"bleu {text}": 12.5}},
            )
        return folder

    return make
