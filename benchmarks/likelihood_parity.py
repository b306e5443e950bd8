"""Claim: log-likelihoods of gold answers equal lm-eval's on the base and on our export, row by row, to 1e-3 nats.

A LoRA adapter is trained for a few steps on GSM8K, then base and tuned score the gold answers of GSM8K test rows: whet
on its own packed path (tuned: adapter merged in memory), lm-eval through `whet evaluate --lm-eval` on the base's folder
and on an export, with a task file over local rows whose contexts and targets are whet's rendered prompts and answers.

What differs and is taken into account: lm-eval moves white space that ends a context into the continuation. ChatML's
prompt ends with a line break, so there it scores that token too; whet's sums are extended by it here. The token ids of
both are compared for every row. And torch's float32 log_softmax on CPUs is off by some 1e-5 nats per token, always to
the same side, which sums to more than 1e-3 over an answer: lm-eval is measured with its `softmax_dtype: float64`, and,
for one form, as it is by default. whet takes a float32 logsumexp, which has no such bias.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import write_result
from whet.data import templates
from whet.data.rows import number_ids
from whet.data.sources import BadRow, open_source
from whet.evaluation.likelihood import GoldLikelihood, gold_samples, sample_likelihoods
from whet.evaluation.standard.lm_eval import LmEvalOptions, check_lm_eval, run_lm_eval
from whet.inference.tuned import load_tuned
from whet.kernels import attention
from whet.models.load import load_pretrained
from whet.recipe import load_recipe
from whet.recipe.schema import Source
from whet.types import Example, TokenizedSample

PLAIN_PROMPT = "Question: {question}\n\nAnswer: "
TOLERANCE_NATS = 1e-3
RECIPE = """
name: likelihood-parity
output: {run}
model: {{id: smollm2-135m-instruct, dtype: float32}}
adapter: {{method: lora, rank: 8, alpha: 16}}
data: {{train: [{{source: {rows}, split: "all", rows: 64}}]}}
batch: {{global_size: 4, micro_size: 4}}
optim: {{lr: 1.0e-3, schedule: constant, warmup: 0}}
train: {{max_steps: {steps}, device: cpu}}
"""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{target}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


class Form:
    """One way to render the rows: what whet scores, and what lm-eval is given of it."""

    def __init__(self, name: str, template: templates.Template, examples: Sequence[Example], folder: Path) -> None:
        self.name = name
        samples = [sample for sample in gold_samples(template, examples) if sample is not None]
        pairs = [_as_lm_eval_reads(template.tokenizer, sample) for sample in samples]
        self.samples = [sample for _, sample in pairs if sample is not None]
        self.num_other_tokens = len(pairs) - len(self.samples)
        self.num_moved = sum(
            s.num_taught - o.num_taught for (_, s), o in zip(pairs, samples, strict=True) if s is not None
        )
        rows = [row for row, sample in pairs if sample is not None]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, rows=path), encoding="utf-8")


def _as_lm_eval_reads(tokenizer: Any, sample: TokenizedSample) -> tuple[dict[str, str], TokenizedSample | None]:
    """Its row, and the sample with what lm-eval scores taught; None where its token ids are not ours."""
    start, end = int(sample.taught.argmax()), int(np.flatnonzero(sample.taught)[-1]) + 1

    def decode(ids: np.ndarray) -> str:
        return tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    context, target = decode(sample.ids[:start]), decode(sample.ids[start:end])
    # what its TemplateLM._encode_pair does for causal models
    whole = tokenizer.encode(context + target, add_special_tokens=False)
    num_context = len(tokenizer.encode(context.rstrip(), add_special_tokens=False))
    taught = (np.arange(end) >= num_context) & (np.arange(end) < end)
    scored = replace(sample, ids=sample.ids[:end], taught=taught)
    is_same = whole == sample.ids[:end].tolist() and num_context <= start
    return {"context": context, "target": target}, scored if is_same else None


def train(folder: Path, data: Path, num_steps: int) -> Path:
    recipe = folder / "recipe.yaml"
    run = folder / "run"
    recipe.write_text(RECIPE.format(run=run, rows=data / "gsm8k" / "train.jsonl", steps=num_steps), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "whet", "train", str(recipe)], check=True)
    return run


def theirs(run: Path, model: str, form: Form) -> list[tuple[float, bool]]:
    """(log-likelihood, whether every token is the most probable one) of each row, from lm-eval's logged samples."""
    [path] = (run / "evaluations" / "lm-eval" / model / form.name).rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["perplexity"], bool(row["acc"])) for row in sorted(rows, key=lambda row: row["doc_id"])]


def compare(
    model: str, form: Form, ours: Sequence[GoldLikelihood | None], found: Sequence[tuple[float, bool]]
) -> dict[str, Any]:
    pairs = [(o, f) for o, f in zip(ours, found, strict=True) if o is not None]
    deviations = np.array([abs(-o.nll - f[0]) for o, f in pairs])
    return {
        "model": model,
        "form": form.name,
        "rows": len(pairs),
        "tokens_scored": sum(o.num_tokens for o, _ in pairs),
        "tokens_moved_by_lm_eval": form.num_moved,
        "rows_with_other_token_ids": form.num_other_tokens,
        "mean_log_likelihood_nats": float(np.mean([f[0] for _, f in pairs])),
        "largest_deviation_nats": float(deviations.max()),
        "median_deviation_nats": float(np.median(deviations)),
        "rows_with_other_greedy_verdict": sum((o.num_correct == o.num_tokens) != f[1] for o, f in pairs),
    }


def measure(
    run: Path, options: LmEvalOptions, forms: Sequence[Form], ours: dict[tuple[str, str], list[GoldLikelihood | None]]
) -> list[dict[str, Any]]:
    run_lm_eval(run, options, say=lambda text: print(text, flush=True), progress=lambda *_: None)
    found = [
        compare(model, form, ours[model, form.name], theirs(run, model, form))
        for model in ("base", "tuned")
        for form in forms
    ]
    for each in found:
        print(each, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lm-eval-python", default=sys.executable)
    arguments = parser.parse_args()
    if arguments.lm_eval_python == sys.executable and find_spec("lm_eval") is None:
        print("lm-eval is not installed (pip install 'whet[eval]', or --lm-eval-python): nothing measured")
        return
    data = Path(os.environ["WHET_TEST_DATA"])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = train(folder, data, arguments.steps)
        recipe = load_recipe(run / "recipe.yaml")
        loaded = load_pretrained(recipe.model, device=torch.device("cpu"))
        attention.install(loaded.model)
        source = Source(source=str(data / "gsm8k" / "test.jsonl"), split="all", rows=arguments.rows)
        rows = open_source(source, seed=0, base_folder=folder).read()
        examples = list(number_ids(row for row in rows if not isinstance(row, BadRow)))
        (folder / "tasks").mkdir()
        chat = templates.build_template(loaded.tokenizer, "chat", loaded.stop_ids)
        plain = templates.build_template(loaded.tokenizer, "plain", loaded.stop_ids, prompt=PLAIN_PROMPT)
        # the second form on a quarter of the rows: it is there for the tokens that lm-eval does not move
        forms = [
            Form("chat", chat, examples, folder / "tasks"),
            Form("plain", plain, examples[: arguments.rows // 4], folder / "tasks"),
        ]
        options = LmEvalOptions(
            tasks=tuple(form.name for form in forms), tasks_folder=folder / "tasks", python=arguments.lm_eval_python,
            model_args={"softmax_dtype": "float64"}, fresh=True,
        )  # fmt: skip
        versions = check_lm_eval(options)
        ours = {}
        for model in ("base", "tuned"):
            if model == "tuned":
                load_tuned(loaded, run)
            for form in forms:
                ours[model, form.name] = sample_likelihoods(loaded, form.samples)
                print(f"whet: {model}, {form.name}: {len(form.samples)} rows", flush=True)
        comparisons = measure(run, options, forms, ours)
        as_default = measure(run, replace(options, tasks=("plain",), model_args={}), forms[1:], ours)
    largest = max(each["largest_deviation_nats"] for each in comparisons)
    print(f"largest deviation {largest:.2e} nats")
    write_result(
        "likelihood_parity",
        claim=__doc__.split("\n")[0].removeprefix("Claim: "),
        result={
            "lm_eval": {"python": arguments.lm_eval_python != sys.executable, **versions, "ours": version("whet")},
            "threads": torch.get_num_threads(),
            "tolerance_nats": TOLERANCE_NATS,
            "largest_deviation_nats": largest,
            "holds": largest <= TOLERANCE_NATS,
            "comparisons": comparisons,
            "with_lm_evals_default_softmax": as_default,
        },
        command=f"python benchmarks/likelihood_parity.py --rows {arguments.rows}",
    )


if __name__ == "__main__":
    main()
