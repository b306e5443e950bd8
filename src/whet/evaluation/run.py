"""Base against tuned on the recipe's held-out rows: same prompts, same path, same decoding, one model in memory.

The base answers first; then the adapter is merged into the same weights (float32, cast once) or, for a full
fine-tuning, the trained weights are loaded, and the same code answers again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from whet.checkpoint.manifest import file_sha256
from whet.data.datasets import judge
from whet.data.pipeline import prepare
from whet.data.templates import Template, prompts
from whet.errors import StorageError
from whet.evaluation.compare import compare
from whet.evaluation.store import read_eval_report, write_comparison, write_eval_report
from whet.inference.engine import Decoding, generate
from whet.kernels import attention
from whet.models.adapters import ADAPTER_WEIGHTS, FULL_WEIGHTS, read_adapter
from whet.models.load import LoadedModel, load_pretrained
from whet.models.merge import merge_adapter
from whet.parallel.env import choose_device, read_env
from whet.recipe import load_recipe
from whet.recipe.schema import Evaluate, Recipe
from whet.types import Comparison, EvalReport, Example, Generation

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """One evaluation set, rendered."""

    name: str
    examples: tuple[Example, ...]
    prompts: tuple[tuple[int, ...], ...]
    decoding: Decoding
    stop_ids: frozenset[int]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over example ids and prompt tokens."""
        digest = hashlib.sha256()
        for example, prompt in zip(self.examples, self.prompts, strict=True):
            digest.update(json.dumps([example.id, prompt]).encode())
        return digest.hexdigest()


def evaluate_run(run_folder: Path, *, say: Say, fresh: bool = False) -> list[Comparison]:
    """Answer every evaluation set of the run with base and tuned, judge, compare, and store all of it.

    Answers that are stored already and still belong to these weights, rows and decoding are used again unless
    `fresh`. Raises StorageError when the run has no final weights yet.
    """
    recipe = load_recipe(run_folder / "recipe.yaml")
    weights = final_weights(run_folder)
    device = choose_device(recipe.train.device, read_env())
    loaded = load_pretrained(recipe.model, device=device)
    attention.install(loaded.model)
    sets = _render_sets(recipe, loaded)

    base_name = f"{loaded.identity.weights_sha256}, {_dtype_name(loaded)}"
    base = {s.name: _report(run_folder, "base", base_name, s, loaded, say, fresh) for s in sets}
    load_tuned(loaded.model, run_folder)
    tuned_name = f"{base_name} with {weights.name} {file_sha256(weights)}, merged"
    comparisons = []
    for s in sets:
        tuned = _report(run_folder, "tuned", tuned_name, s, loaded, say, fresh)
        comparison = compare(base[s.name], tuned, seed=recipe.seed)
        write_comparison(run_folder / "evaluations" / s.name, comparison)
        comparisons.append(comparison)
    return comparisons


def final_weights(run_folder: Path) -> Path:
    """The adapter or model file that a finished run left at its root."""
    for name in (ADAPTER_WEIGHTS, FULL_WEIGHTS):
        if (run_folder / name).is_file():
            return run_folder / name
    raise StorageError(
        "has no final weights yet", where=str(run_folder), mend="let the run finish: whet train with its recipe"
    )


def load_tuned(model: nn.Module, run_folder: Path) -> None:
    """Turn the base model in memory into the run's tuned model, in place."""
    from safetensors.torch import load_file

    if final_weights(run_folder).name == ADAPTER_WEIGHTS:
        config, tensors = read_adapter(run_folder)
        merge_adapter(model, config, tensors)
        return
    named = dict(model.named_parameters())
    saved = load_file(run_folder / FULL_WEIGHTS)
    if set(saved) != set(named):
        raise StorageError(f"{FULL_WEIGHTS} does not belong to this base model", where=str(run_folder))
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(saved[name])


def _render_sets(recipe: Recipe, loaded: LoadedModel) -> list[_Set]:
    data = prepare(recipe, loaded.tokenizer, end_ids=loaded.stop_ids, base_folder=Path.cwd())
    return [_render(entry, data.evaluate[entry.name], data.template) for entry in recipe.evaluate]


def _render(entry: Evaluate, examples: Sequence[Example], template: Template) -> _Set:
    return _Set(
        name=entry.name,
        examples=tuple(examples),
        prompts=tuple(tuple(p) for p in prompts(template, examples)),
        decoding=Decoding(max_new_tokens=entry.max_new_tokens, batch_rows=entry.batch_rows),
        stop_ids=template.end_ids,
    )


def _report(
    run_folder: Path, model: str, weights: str, s: _Set, loaded: LoadedModel, say: Say, fresh: bool
) -> EvalReport:
    folder = run_folder / "evaluations" / s.name
    if not fresh and (stored := _stored(folder, model)) is not None:
        key = (stored.weights, stored.rows_fingerprint, stored.decoding)
        if key == (weights, s.fingerprint, str(s.decoding)):
            say(f"{s.name}: {model} answered before, {stored.accuracy:.1%} right")
            return stored
    report = answer(s.examples, s.prompts, loaded, s.decoding, stop_ids=s.stop_ids, model=model, dataset=s.name)
    report = replace(report, weights=weights, rows_fingerprint=s.fingerprint)
    write_eval_report(folder, report)
    num_new = sum(g.num_new_tokens for g in report.generations)
    say(
        f"{s.name}: {model} answered {len(s.examples)} rows in {report.seconds:.0f} s "
        f"({num_new / report.seconds:.0f} tokens/s), {report.accuracy:.1%} right"
    )
    return report


def _stored(folder: Path, model: str) -> EvalReport | None:
    if not (folder / f"{model}.summary.json").is_file():
        return None
    return read_eval_report(folder, model)


def answer(
    examples: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    loaded: LoadedModel,
    decoding: Decoding,
    *,
    stop_ids: frozenset[int],
    model: str,
    dataset: str,
) -> EvalReport:
    """Greedy answers to `examples`, judged one by one; `weights` and `rows_fingerprint` are the caller's to fill."""
    started = time.monotonic()
    completions = generate(loaded.model, prompts, stop_ids=stop_ids, decoding=decoding)
    seconds = time.monotonic() - started
    tokenizer = loaded.tokenizer
    generations = tuple(
        Generation(
            example_id=example.id,
            prompt=_text(tokenizer, prompt, skip_special_tokens=False),
            text=_text(tokenizer, completion.ids, skip_special_tokens=True),
            num_new_tokens=len(completion.ids),
            stopped="stop_token" if completion.has_stopped else "length",
            seconds=seconds / len(examples),
        )
        for example, prompt, completion in zip(examples, prompts, completions, strict=True)
    )
    return EvalReport(
        model=model,
        dataset=dataset,
        decoding=str(decoding),
        rows_fingerprint="",
        generations=generations,
        judgements=tuple(judge(e, g.text) for e, g in zip(examples, generations, strict=True)),
        seconds=seconds,
    )


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
    assert isinstance(text, str)
    return text


def _dtype_name(loaded: LoadedModel) -> str:
    return str(loaded.compute_dtype).removeprefix("torch.")
