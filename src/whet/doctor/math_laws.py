"""`whet doctor --math RECIPE`: laws that any training must keep, tried on the user's own recipe and rows, shrunken.

Each law compares two ways to the same numbers, as independent of each other as they can be, and says by how much they
differ. In float64 rounding is far below every bound: transformers' norms compute in float32, which leaves about 1e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from whet.checkpoint.load import open_checkpoint
from whet.checkpoint.names import checkpoint_folder
from whet.checkpoint.save import write_files
from whet.data.packing import IGNORED, pack
from whet.doctor.law import Law, most_in, worst
from whet.doctor.small_problem import IDENTITY, FirstRows, Problem, build, load_small, num_units
from whet.inference.engine import Decoding, generate
from whet.kernels import select
from whet.models.adapter_source import parse_adapter, read_adapter_folder
from whet.models.adapters import ADAPTER_CONFIG
from whet.models.merge import merge_adapter
from whet.models.peft_reader import attach_live
from whet.optim.build import optimizer_tensors
from whet.train.callbacks import Requests
from whet.train.loop import Training, train_step
from whet.train.signals import StopRequest
from whet.train.state import Saver
from whet.types import PackedBatch, TokenizedSample

ROUNDING = 1e-6
"""relative: a hundred times what float32 norms leave, a thousandth of what the mildest known fault makes"""
_NEW_TOKENS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """Loss and gradients of one step."""

    loss: float
    gradient_P: Tensor
    """of all that trains, in a row"""


def one_step(training: Training) -> StepOutcome:
    """The first step of `training`."""
    training.callbacks.on_start(training, 0)
    record, _ = train_step(training, 0, asked=Requests(), stop=StopRequest())
    assert record is not None, "no sample of the first step is left out"
    if training.lanes is not None:
        training.lanes.close()
    gradients = [p.grad.reshape(-1) for p in training.trainables.with_gradients if p.grad is not None]
    return StepOutcome(loss=record.loss, gradient_P=torch.cat(gradients).detach())


def distance(one: StepOutcome, other: StepOutcome) -> float:
    """The larger relative difference of losses and of gradients (L2)."""
    if one.gradient_P.shape != other.gradient_P.shape:
        return float("inf")
    loss = abs(one.loss - other.loss) / max(abs(other.loss), 1e-12)
    return max(loss, float((one.gradient_P - other.gradient_P).norm() / other.gradient_P.norm()))


def one_gradient(problem: Problem) -> tuple[Law, StepOutcome]:
    """Every way to cut a step into passes gives one loss and one gradient; and that outcome."""
    units = num_units(problem)
    micros = [micro for micro in (1, 2, 4, 8) if micro <= units]
    ways: dict[str, StepOutcome] = {}
    for micro in micros:
        ways[f"{units // micro} passes of {micro}"] = one_step(build(problem, units_per_step=units, micro=micro))
    if units > 1:
        lanes = build(problem, units_per_step=units, micro=micros[-2], num_lanes=2)
        ways[f"passes of {micros[-2]} in 2 lanes"] = one_step(lanes)
    first, *others = ways
    found = {name: distance(ways[name], ways[first]) for name in others}
    law = Law(
        name="one gradient",
        compared=f"loss and gradient of a step of {units} {problem.recipe.batch.unit}: {first} against {_list(others)}",
        difference=worst(found.values()),
        bound=ROUNDING,
        where=most_in(found),
        broken="micro-batch and accumulation change what is learnt: long and short answers count otherwise",
    )
    return law, ways[first]


def two_ranks(outcome: StepOutcome, of_ranks: StepOutcome) -> Law:
    """Two processes give the gradient of one."""
    return Law(
        name="ranks",
        compared="loss and gradient of the same step: one process against two (gloo, replicate)",
        difference=distance(of_ranks, outcome),
        bound=ROUNDING,
        broken="another number of GPUs learns something else",
    )


@torch.no_grad()
def packed_is_separate(problem: Problem) -> Law:
    """Packed documents compute what each computes alone in transformers and PEFT, without any of whet's functions."""
    training = _ready(problem)
    batch = pack(problem.samples, share_prefix=training.plan.share_prefix)
    parts = _documents(batch, training.loss_model.hidden(batch))
    select.uninstall(training.model)
    found = {}
    for sample, packed_TE in zip(problem.samples, parts, strict=True):
        alone_TE = training.loss_model.backbone(input_ids=_ids(sample), use_cache=False).last_hidden_state[0]
        found[f"document {sample.id}"] = _relative(packed_TE, alone_TE[-len(packed_TE) :])
    return Law(
        name="packed = separate",
        compared=f"hidden states of {len(found)} documents: packed, by whet's functions, against each alone, by "
        "transformers' and PEFT's",
        difference=worst(found.values()),
        bound=ROUNDING,
        where=most_in(found),
        broken="documents of a pack see each other, or whet's functions compute another model",
    )


@torch.no_grad()
def edits_stay_inside(problem: Problem) -> Law:
    """Changing one document moves no other, not by one bit."""
    training = _ready(problem)
    num_tokens = int(problem.config["vocab_size"])
    batch = pack(problem.samples, share_prefix=training.plan.share_prefix)
    before = _documents(batch, training.loss_model.hidden(batch))
    found: dict[str, float] = {}
    for edited in (0, len(problem.samples) // 2):
        sample = problem.samples[edited]
        ids = sample.ids.copy()
        ids[batch.shared_prefix :] = (ids[batch.shared_prefix :] + 1) % num_tokens
        changed = [*problem.samples]
        changed[edited] = replace(sample, ids=ids)
        # the shared prefix is the same one: what it ends with is not edited
        again = pack(changed, share_prefix=training.plan.share_prefix)
        after = _documents(again, training.loss_model.hidden(again))
        pairs = enumerate(zip(before, after, strict=True))
        moved = {n: float((a[-len(b) :] - b[-len(a) :]).abs().max()) for n, (a, b) in pairs}
        assert moved[edited] > 0, "an edit that changes nothing shows nothing"
        found |= {f"document {n} when document {edited} is edited": x for n, x in moved.items() if n != edited}
    return Law(
        name="edit probe",
        compared="hidden states of a pack before and after one of its documents is edited: those of all others",
        difference=worst(found.values()),
        bound=0.0,
        unit="absolute",
        where=most_in(found),
        broken="documents of a pack see each other",
    )


def labels_are_answers(problem: Problem, rows: FirstRows) -> Law:
    """What is taught is each taught answer with the token that ends its turn, predicted one token ahead."""
    wrong = {}
    for example, sample in zip(rows.examples, rows.samples, strict=True):
        answers = [message.content for message in example.messages if message.is_taught]
        spans = _spans(sample.taught)
        texts = [_text(rows, sample.ids[start:stop]) for start, stop in spans]
        ends = all(int(sample.ids[stop - 1]) in rows.template.end_ids for _, stop in spans)
        wrong[f"row {example.origin or example.id}"] = float(
            not ends or len(spans) != len(answers) or [t.strip() for t in texts] != [a.strip() for a in answers]
        )
    expected = [label for sample in problem.samples for label in _next_tokens(sample)]
    wrong["the labels of the pack"] = float(pack(problem.samples).labels_T.tolist() != expected)
    return Law(
        name="labels",
        compared=f"taught tokens of {len(rows.samples)} rows, decoded, against their answers and an end of turn; "
        "labels against the next tokens",
        difference=sum(wrong.values()),
        bound=0.0,
        unit="rows",
        where=most_in(wrong),
        broken="the model learns prompts, or never learns to stop",
    )


@torch.no_grad()
def merged_is_live(problem: Problem) -> Law:
    """The adapter merged into the base answers as it does beside it."""
    compared = "logits of the rows: adapter beside the base, as it trains, against merged into its weights"
    broken = "what is exported is another model than the one that was trained and evaluated"
    training = _ready(problem)
    if not training.trainables.is_adapter:
        nothing = "all weights train: nothing to merge"
        return Law(name="merged = live", compared=nothing, difference=None, bound=ROUNDING)
    live = _logits(training, problem.samples)
    merged = load_small(problem).model
    merge_adapter(merged, _config_of(training), training.trainables.tensors())
    found = _compare(problem.samples, live, merged)
    return Law(
        name="merged = live", compared=compared, difference=worst(found.values()), bound=ROUNDING,
        where=most_in(found), broken=broken,
    )  # fmt: skip


@torch.no_grad()
def saved_is_loaded(problem: Problem) -> Law:
    """What other libraries read from the file answers as the model in memory."""
    training = _ready(problem)
    trainables, live = training.trainables, _logits(training, problem.samples)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_files(
            folder, tensors={trainables.weights_file: trainables.tensors()}, documents=trainables.documents, files={}
        )
        base = load_small(problem).model
        loaded: nn.Module = base
        if trainables.is_adapter:
            adapter = read_adapter_folder(folder)
            update = parse_adapter(adapter.config, adapter.tensors, base.config.to_dict())
            loaded, reader = attach_live(loaded, adapter, update), "PEFT"
        else:
            loaded.load_state_dict(load_file(folder / trainables.weights_file), strict=False)
            reader = "transformers"
    found = _compare(problem.samples, live, loaded)
    return Law(
        name="saved = loaded",
        compared=f"logits of the rows: as it trains against what {reader} reads from {trainables.weights_file}",
        difference=worst(found.values()),
        bound=ROUNDING,
        where=most_in(found),
        broken="a tool that loads the result gets another model",
    )


def batched_is_single(problem: Problem) -> Law:
    """Answers written side by side, with a cache, are those written alone, without one."""
    training = _ready(problem)
    prompts = [s.ids[: int(np.flatnonzero(s.taught)[0])].tolist() or [0] for s in problem.samples[:5]]
    stops = frozenset(problem.stop_ids)
    decoding = Decoding(max_new_tokens=_NEW_TOKENS, batch_rows=3)
    together = generate(training.model, prompts, stop_ids=stops, decoding=decoding)
    num_different = {
        f"prompt {n}": float(list(answer.ids) != _write_alone(training, prompt, stops))
        for n, (prompt, answer) in enumerate(zip(prompts, together, strict=True))
    }
    return Law(
        name="batched = single",
        compared=f"{len(prompts)} greedy answers of up to {_NEW_TOKENS} tokens: 3 side by side with a cache, against "
        "each alone, read anew for every token",
        difference=sum(num_different.values()),
        bound=0.0,
        unit="answers",
        where=most_in(num_different),
        broken="evaluation measures something else than the model",
    )


def resumed_is_not_stopped(problem: Problem) -> Law:
    """Four steps, and two steps, a checkpoint, new objects and two more, end in the same bits."""
    units = max(1, num_units(problem) // 2)
    whole = build(problem, units_per_step=units, micro=max(1, units // 2), is_clipped=True)
    _train(whole, range(4))
    stopped = build(problem, units_per_step=units, micro=max(1, units // 2), is_clipped=True)
    _train(stopped, range(2))
    with TemporaryDirectory() as name:
        folder = Path(name)
        _saver(stopped, folder).hold(2)()
        again = build(problem, units_per_step=units, micro=max(1, units // 2), is_clipped=True, is_restored=True)
        first = _saver(again, folder).restore(open_checkpoint(checkpoint_folder(folder, 2)))
        _train(again, range(first, 4))
    found = {
        name: float((before.detach().double() - after.detach().double()).abs().max())
        for name, before, after in _paired(_state(whole), _state(again))
    }
    return Law(
        name="resume = not stopped",
        compared=f"{len(found)} weights and moments after 4 steps against 2 steps, a checkpoint and 2 more",
        difference=worst(found.values()),
        bound=0.0,
        unit="absolute",
        where=most_in(found),
        broken="a run that was interrupted is another run",
    )


def _ready(problem: Problem) -> Training:
    """What a run trains, in evaluation mode."""
    training = build(problem, units_per_step=1, micro=1)
    training.model.eval()
    return training


def _train(training: Training, steps: range) -> None:
    training.callbacks.on_start(training, steps.start)
    for step in steps:
        record, _ = train_step(training, step, asked=Requests(), stop=StopRequest())
        if record is not None:
            training.callbacks.after_step(record)


def _saver(training: Training, folder: Path) -> Saver:
    return Saver(
        run_folder=folder, plan=training.plan, keep=1, trainables=training.trainables, optimizer=training.optimizer,
        callbacks=training.callbacks, best=training.best,
        identity=IDENTITY, data_fingerprint="", recipe_yaml="", files={},
    )  # fmt: skip


def _state(training: Training) -> dict[str, Tensor]:
    named = training.trainables.named
    return {**named, **optimizer_tensors(training.optimizer, named)}


def _paired(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    nothing = torch.tensor(float("inf"))
    return [(name, one.get(name, nothing), other.get(name, -nothing)) for name in {**one, **other}]


def _documents(batch: PackedBatch, hidden_TE: Tensor) -> list[Tensor]:
    """What each document has for itself, behind a shared prefix."""
    return list(hidden_TE[batch.shared_prefix :].split(batch.lengths))


def _logits(training: Training, samples: Sequence[TokenizedSample]) -> list[Tensor]:
    """Of each sample alone, by the functions that train."""
    head = training.loss_model.head
    return [head(training.loss_model.hidden(pack([sample]))) for sample in samples]


def _compare(samples: Sequence[TokenizedSample], live: Sequence[Tensor], reader: nn.Module) -> dict[str, float]:
    return {
        f"row {sample.id}": _relative(reader(input_ids=_ids(sample), use_cache=False).logits[0], expected)
        for sample, expected in zip(samples, live, strict=True)
    }


@torch.no_grad()
def _write_alone(training: Training, prompt: Sequence[int], stops: frozenset[int]) -> list[int]:
    ids = [*prompt]
    while len(ids) < len(prompt) + _NEW_TOKENS and (len(ids) == len(prompt) or ids[-1] not in stops):
        row = TokenizedSample(id="", ids=np.array(ids, dtype=np.int32), taught=np.zeros(len(ids), dtype=bool))
        (logits_TV,) = _logits(training, [row])
        ids.append(int(logits_TV[-1].argmax()))
    return ids[len(prompt) :]


def _ids(sample: TokenizedSample) -> Tensor:
    return torch.from_numpy(sample.ids.astype(np.int64))[None]


def _config_of(training: Training) -> dict[str, Any]:
    config: dict[str, Any] = training.trainables.documents[ADAPTER_CONFIG]
    return config


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _next_tokens(sample: TokenizedSample) -> list[int]:
    """At each position the next token where that one is taught: a plain loop."""
    last = sample.num_tokens - 1
    return [int(sample.ids[t + 1]) if t < last and sample.taught[t + 1] else IGNORED for t in range(last + 1)]


def _spans(taught: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each stretch of taught tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], taught, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _text(rows: FirstRows, ids: np.ndarray) -> str:
    text: str = rows.template.tokenizer.decode(ids[:-1].tolist(), clean_up_tokenization_spaces=False)
    return text


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
