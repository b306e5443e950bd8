"""The files of the FiQA project's evaluation plan, made from a run's stored reports: nothing is generated or scored.

`baseline_results.json` and `peft_results.json` hold `{metrics: {name: {mean, scores}}, predictions, ground_truths,
num_samples}`, `comparison_report.json` per metric `{base, peft, improvement, improvement_pct}` with our interval and
p-value beside them. A run with several evaluation sets has a folder for each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whet import atomic
from whet.errors import StorageError
from whet.evaluation.metrics import METRICS, SECONDS, mean
from whet.evaluation.store import list_datasets, read_comparison, read_eval_report
from whet.types import Comparison, EvalReport

BASELINE, PEFT, COMPARISON = "baseline_results.json", "peft_results.json", "comparison_report.json"


def write_plan_files(run_folder: Path, folder: Path) -> list[Path]:
    """Write what the run's stored reports allow into `folder`; StorageError when there are none."""
    names = list_datasets(run_folder)
    if not names:
        raise StorageError("holds no stored answers", where=str(run_folder), mend=f"whet evaluate {run_folder}")
    written = []
    for name in names:
        target = folder / name if len(names) > 1 else folder
        for file, document in plan_documents(run_folder, name).items():
            atomic.write_text(target / file, json.dumps(document, indent=1) + "\n")
            written.append(target / file)
    return written


def plan_documents(run_folder: Path, dataset: str) -> dict[str, dict[str, Any]]:
    """File name -> content for one evaluation set; without the comparison where only the base answered."""
    folder = run_folder / "evaluations" / dataset
    documents = {}
    for file, model in ((BASELINE, "base"), (PEFT, "tuned")):
        if (folder / f"{model}.summary.json").is_file():
            documents[file] = result_document(read_eval_report(folder, model))
    if (folder / "comparison.json").is_file():
        documents[COMPARISON] = comparison_document(read_comparison(folder))
        if {BASELINE, PEFT} <= documents.keys():
            _add_seconds(documents)
    return documents


def _add_seconds(documents: dict[str, dict[str, Any]]) -> None:
    """The time per example has no interval, so a comparison does not hold it; the plan lists it all the same."""
    both = [documents[file]["metrics"].get(SECONDS, {}).get("mean") for file in (BASELINE, PEFT)]
    if None in both:
        return
    base, peft = both
    documents[COMPARISON]["comparison"][SECONDS] = {
        "peft": peft,
        "base": base,
        "improvement": peft - base,
        "improvement_pct": 100 * (peft - base) / base if base else None,
        "unit": METRICS[SECONDS].unit,
    }


def result_document(report: EvalReport) -> dict[str, Any]:
    """One model's answers and scores. `ground_truths` has each row's first gold, which is what training teaches."""
    return {
        "metrics": {name: {"mean": mean(scores), "scores": list(scores)} for name, scores in report.scores.items()},
        "figures": report.figures,
        "predictions": [generation.text for generation in report.generations],
        "ground_truths": [judgement.golds[0] if judgement.golds else "" for judgement in report.judgements],
        "num_samples": len(report.generations),
        "decoding": report.decoding,
        "dataset": report.dataset,
    }


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Base against tuned, metric by metric, over the rows that both have a score for."""
    metrics = {
        metric.name: {
            "peft": metric.tuned_mean,
            "base": metric.base_mean,
            "improvement": metric.difference.estimate,
            "improvement_pct": 100 * metric.difference.estimate / metric.base_mean if metric.base_mean else None,
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "interval": [metric.difference.low, metric.difference.high],
            "level": metric.difference.level,
            "p_value": metric.p_value,
            "adjusted_p": metric.adjusted_p,
            "verdict": metric.verdict,
        }
        for metric in comparison.metrics
    }
    return {
        "comparison": metrics,
        "primary": comparison.primary,
        "verdict": comparison.verdict,
        "num_samples": comparison.num_rows,
        "dataset": comparison.dataset,
        "sentences": list(comparison.sentences),
    }
