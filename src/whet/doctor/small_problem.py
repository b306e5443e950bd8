"""The user's recipe on a model so small that its laws are tried in seconds, in float64.

    config.json of the base         -> the same architecture with 2 layers, hidden 64, heads in groups of the same kind
    first rows of the training data -> tokens by the recipe's tokenizer and template, counted anew: 0, 1, 2, ...
    the rest of the recipe          -> as it is: adapter, start, targets, dropout, packing, prefix, loss head, callbacks

Weights are drawn at random and what trains is moved away from its start, where an adapter would do nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from whet.data.pipeline import PreparedData
from whet.data.sampler import Order, order_of
from whet.data.shared_prefix import pays
from whet.data.sources import BadRow, open_source
from whet.data.templates import Template, end_ids_for, template_for
from whet.data.tokenize import tokenize_stream
from whet.errors import DataError
from whet.models.load import LoadedModel
from whet.models.tokenizer import load_tokenizer
from whet.parallel.env import Env
from whet.parallel.mesh import Layout
from whet.recipe import dump_recipe, parse_recipe
from whet.recipe.resolve import resolve
from whet.recipe.schema import Adapter, Parallel, Recipe
from whet.train.callbacks import Callbacks
from whet.train.chosen import chosen
from whet.train.loop import Training
from whet.train.run import build_training
from whet.types import Example, Ledger, ModelIdentity, TokenizedSample, TokenizedSet

MOST_SAMPLES = 8
FEWEST_SAMPLES = 2
_ROWS_LOOKED_AT = 32
"""of each source"""
_LONGEST = 512
"""tokens of a sample"""
_RANK = 4
_SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
_DROPPED = ("auto_map", "quantization_config", "torch_dtype", "dtype", "_name_or_path", "transformers_version")
IDENTITY = ModelIdentity(id="shrunken", revision=None, weights_sha256="0" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What the laws are tried on; plain values, so that other processes get it as text."""

    recipe: Recipe
    config: Mapping[str, Any]
    """config.json of the small model"""
    samples: tuple[TokenizedSample, ...]
    source_sizes: tuple[int, ...]
    stop_ids: tuple[int, ...]

    def dumped(self) -> str:
        """`parse_problem` reads it."""
        samples = [[s.id, s.ids.tolist(), s.taught.astype(int).tolist()] for s in self.samples]
        return json.dumps(
            {"recipe": dump_recipe(self.recipe), "config": dict(self.config), "samples": samples,
             "source_sizes": self.source_sizes, "stop_ids": self.stop_ids}
        )  # fmt: skip


def parse_problem(text: str) -> Problem:
    """What `Problem.dumped` wrote."""
    document = json.loads(text)
    samples = [
        TokenizedSample(id=name, ids=np.array(ids, dtype=np.int32), taught=np.array(taught, dtype=bool))
        for name, ids, taught in document["samples"]
    ]
    return Problem(
        recipe=parse_recipe(document["recipe"], "the shrunken recipe"),
        config=document["config"],
        samples=tuple(samples),
        source_sizes=tuple(document["source_sizes"]),
        stop_ids=tuple(document["stop_ids"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRows:
    """Rows of the training data with their tokens as training sees them."""

    template: Template
    examples: tuple[Example, ...]
    samples: tuple[TokenizedSample, ...]
    source_sizes: tuple[int, ...]


def read_first_rows(recipe: Recipe) -> tuple[FirstRows, dict[str, Any]]:
    """The shortest of the first rows of every source, in their order, and the base's config.json.

    DataError where there are too few; the errors of reading rows and finding the base.
    """
    base = load_tokenizer(recipe.model)
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    template = template_for(base.tokenizer, recipe.data, end_ids_for(base.tokenizer, recipe.data, base.stop_ids))
    num_each = max(1, MOST_SAMPLES // len(recipe.data.train))
    taken: dict[str, tuple[Example, TokenizedSample]] = {}
    sizes = []
    for source in recipe.data.train:
        opened = open_source(source, seed=recipe.seed, base_folder=Path.cwd())
        good = (row for row in islice(opened.read(), _ROWS_LOOKED_AT) if not isinstance(row, BadRow))
        limit = min(recipe.data.max_length, _LONGEST)
        made = tokenize_stream(template, good, max_length=limit, over_length=recipe.data.over_length)
        found = {each.example.id: (each.example, each.sample) for each in made if each.sample is not None}
        new = [name for name in found if name not in taken]
        shortest = sorted(new, key=lambda name: found[name][1].num_tokens)[:num_each]
        taken |= {name: found[name] for name in new if name in shortest}
        sizes.append(len(shortest))
    if len(taken) < FEWEST_SAMPLES:
        raise DataError(
            f"only {len(taken)} of the first {_ROWS_LOOKED_AT} rows have at most {limit} tokens",
            where=recipe.data.train[0].source,
            mend="shorter samples (data.over_length=truncate_prompt), or another source",
        )
    examples, samples = zip(*taken.values(), strict=True)
    return FirstRows(template=template, examples=examples, samples=samples, source_sizes=tuple(sizes)), config


def shrink(recipe: Recipe, rows: FirstRows, config: Mapping[str, Any]) -> Problem:
    """The problem of `recipe`; pure."""
    ends = rows.template.end_ids
    known = np.unique(np.concatenate([*(s.ids for s in rows.samples), np.array(sorted(ends), dtype=np.int32)]))
    samples = tuple(replace(s, ids=np.searchsorted(known, s.ids).astype(np.int32)) for s in rows.samples)
    stop_ids = tuple(int(each) for each in np.searchsorted(known, np.array(sorted(ends))))
    small = small_recipe(recipe, samples)
    return Problem(
        recipe=small,
        config=small_config(config, num_tokens=len(known)),
        samples=samples,
        source_sizes=rows.source_sizes,
        stop_ids=stop_ids,
    )


def small_config(config: Mapping[str, Any], *, num_tokens: int) -> dict[str, Any]:
    """The base's configuration with small sizes; what is not a size stays."""
    heads = int(config["num_attention_heads"])
    group = heads // int(config.get("num_key_value_heads") or heads)
    kept = {name: value for name, value in config.items() if name not in _DROPPED and not name.endswith("_token_id")}
    return {
        **kept,
        **_SIZES,
        "num_key_value_heads": max(1, _SIZES["num_attention_heads"] // group),
        "vocab_size": num_tokens,
        "initializer_range": 0.08,
    }


def small_recipe(recipe: Recipe, samples: tuple[TokenizedSample, ...]) -> Recipe:
    """The recipe with four steps of half of the samples each, in float64 on the CPU."""
    lengths = [sample.num_tokens for sample in samples]
    # packs of such a size that there are some of them
    max_length = max(*lengths, -(-sum(lengths) // 4)) if recipe.batch.unit == "packs" else recipe.data.max_length
    return replace(
        recipe,
        model=replace(recipe.model, dtype="float64", quantize="none"),
        adapter=_small_adapter(recipe.adapter),
        data=replace(recipe.data, validation=(), max_length=max_length),
        batch=replace(recipe.batch, global_size=1, micro_size=1),
        optim=replace(recipe.optim, warmup=min(recipe.optim.warmup, 0.25)),
        train=replace(
            recipe.train, max_steps=4, fit_seconds=None, save_every=2, eval_every=None, patience=None,
            best_metric="eval/loss", final="last", device="cpu", threads=None, memory_gb=None, compile=False,
            loss_head="chunked" if recipe.train.loss_head == "liger" else recipe.train.loss_head,
        ),
        parallel=Parallel(strategy="replicate"),
        evaluate=(),
        callbacks=tuple(replace(each, every=1, warmup_steps=0, cooldown_steps=0) for each in recipe.callbacks),
    )  # fmt: skip


def _small_adapter(adapter: Adapter) -> Adapter:
    """Small ranks, in the proportions of the recipe's; the scale of the update is kept."""
    rank = min(adapter.rank, _RANK)
    share = rank / adapter.rank
    return replace(
        adapter,
        rank=rank,
        alpha=adapter.alpha * (share**0.5 if adapter.rslora else share),
        ranks={name: max(1, min(4 * _RANK, round(each * share))) for name, each in adapter.ranks.items()},
    )


def build(
    problem: Problem, *, units_per_step: int, micro: int, layout: Layout | None = None, env: Env | None = None,
    num_lanes: int = 1, is_clipped: bool = False, is_restored: bool = False,
) -> Training:  # fmt: skip
    """The objects of a run, by the code that builds those of a real one.

    `micro` units to a pass; `is_clipped`: gradients are clipped as the recipe says, else left as they are.
    """
    layout = layout or Layout()
    recipe = replace(problem.recipe, batch=replace(problem.recipe.batch, global_size=units_per_step, micro_size=micro))
    if not is_clipped:
        recipe = replace(recipe, optim=replace(recipe.optim, max_grad_norm=0.0))
    torch.manual_seed(recipe.seed)
    loaded, tokens = load_small(problem), _tokens(problem)
    order = order_of(recipe, tokens)
    plan = resolve(
        recipe, world_size=layout.num_data_ranks, num_samples=order.num_units, compute_dtype="float64",
        num_threads=torch.get_num_threads(),
    )  # fmt: skip
    plan = replace(
        plan,
        num_lanes=num_lanes,
        share_prefix=pays(recipe.batch.share_prefix, order.shared_prefix, order.lengths),
        recompute="none" if recipe.train.recompute == "auto" else recipe.train.recompute,
    )
    data = PreparedData(
        train=tokens, validation=None, evaluate={}, template=cast(Any, None), ledgers=(), quarantine=(), notes=()
    )  # fmt: skip
    training = build_training(
        recipe, plan, env or Env(), layout, torch.device("cpu"), loaded, data, order, Callbacks(chosen(recipe)),
        is_restored=is_restored,
    )  # fmt: skip
    if not is_restored:
        _move_away(training)
    return training


def num_units(problem: Problem) -> int:
    """Samples, or packs, that a step may take: a power of two."""
    found = _order(problem).num_units
    return max(power for power in (1, 2, 4, 8) if power <= found)


def _order(problem: Problem) -> Order:
    return order_of(problem.recipe, _tokens(problem))


def load_small(problem: Problem) -> LoadedModel:
    """The small base, the same at every call; no text is read with it."""
    config = AutoConfig.for_model(**problem.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", trust_remote_code=False)
    return LoadedModel(
        model=model.to(torch.float64).eval(),
        tokenizer=cast(Any, None),
        identity=IDENTITY,
        folder=Path(),
        compute_dtype=torch.float64,
        stop_ids=problem.stop_ids,
    )


def _tokens(problem: Problem) -> TokenizedSet:
    samples = problem.samples
    return TokenizedSet(
        samples=samples,
        lengths=np.array([s.num_tokens for s in samples], dtype=np.int32),
        num_taught=np.array([s.num_taught for s in samples], dtype=np.int32),
        source_sizes=problem.source_sizes,
        ledger=Ledger(name="train", num_rows=len(samples), num_kept=len(samples), rows=()),
        fingerprint="",
    )


@torch.no_grad()
def _move_away(training: Training) -> None:
    """From where it starts: with B = 0 an adapter changes nothing and no law of it could fail."""
    generator = torch.Generator().manual_seed(1)
    size = 0.1 if training.trainables.is_adapter else 0.02
    for parameter in training.trainables.named.values():
        parameter.data += size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
