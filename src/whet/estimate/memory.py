"""Peak memory of training from the shape of the model and the size of a pass, and what to choose so that it fits.

Peak = process + weights + gradients + Adam's moments + a checkpoint being written
       + saved activations + the working memory of one layer and of the loss head, with the allocator's slack.

Saved activations are counted per token and layer as the fused functions of whet.kernels keep them (the table in
`saved_layer_bytes`; tests count the real ones). PEFT's own layers, which DoRA needs, keep 4.5 times as much (measured).

On a GPU attention keeps one number for each token and head in place of its probabilities, logits come in larger blocks,
and the copy of a checkpoint lies in the host's memory. Nothing of this was measured.

Shape letters: E hidden size, F channels of the feed-forward layer, Q all query heads and P all key heads in entries
(heads x head size), L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Recompute = Literal["none", "norms", "mlp", "full"]
LEVELS: tuple[Recompute, ...] = ("none", "norms", "mlp", "full")

SHARE_OF_FREE = 0.8
"""of the free memory that a plan may fill: the rest is for what is not foreseen"""
ENOUGH_TOKENS = {"cpu": 1024, "cuda": 8192}
"""tokens of a pass from which on more of them bring no speed"""
_GPU_SLACK, _WIDE_SLACK, _NARROW_SLACK, _DROPOUT_SLACK = 0.1, 0.15, 0.25, 0.3
"""of activations and working memory: on a GPU (not measured), of float32 and of bfloat16 on a CPU, and with dropout in
addition (docs/estimates.md)"""
PROCESS_BYTES = 450_000_000
"""Python with torch, transformers and PEFT, where it cannot be measured"""
FLOAT32_BYTES = 4
ROWS_OF_HEAD = 512
TOKENS_OF_HEAD = {"cpu": 2048, "cuda": 32768}
"""rows and tokens of one block of logits"""
LONGEST_KEPT_PROBABILITIES = 512
"""tokens of a document up to which its attention probabilities are kept"""
_ROWS_PER_TILE = 128
_UNFUSED = 4.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is trained, and how it is held."""

    num_layers: int
    hidden: int
    intermediate: int
    query_size: int
    """query heads x head size"""
    key_size: int
    """key heads x head size"""
    num_heads: int
    vocab: int
    num_base: int
    """weights of the model"""
    base_bytes: int | None = None
    """of a frozen base that is quantized; None: all of it in the compute dtype"""
    num_trainable: int
    trains_all: bool
    """all weights; else a frozen base in the compute dtype and an adapter"""
    is_fused: bool
    """whether the adapter runs in whet's fused functions"""
    narrow_values: int
    """of one layer: sum of the ranks of its adapted linear layers"""
    compute_bytes: int
    """of one number in products: 2, 4 or 8"""
    is_tied: bool
    is_widened: bool = True
    """where all weights train: whether they are held in float32 (or wider); else in the compute dtype"""
    master_bytes: int = 0
    """of the float32 master of a weight that is not widened"""
    moment_bytes: float = 8.0
    """of both moments of a weight that is not widened"""
    has_dropout: bool = False
    """whether inputs of the adapter are dropped, of which each projection makes a copy"""
    has_snapshot: bool = False
    """whether a guard (train.guard) keeps a copy of weights and moments in the host's memory"""
    process_bytes: int = PROCESS_BYTES
    """what the process holds besides weights"""
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def stream_bytes(self) -> int:
        """of one number between the layers: autocast leaves it wide"""
        is_wide = self.trains_all and self.is_widened
        return max(self.compute_bytes, FLOAT32_BYTES) if is_wide else self.compute_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The largest forward pass."""

    tokens: int
    taught: int
    probabilities: int
    """entries of attention probabilities that one head keeps for the backward pass"""
    is_alone: bool = False
    """whether it is the only one of its step, so that no gradients are there when it begins"""


def slack_share(job: Job) -> float:
    """Of activations and working memory: holes between blocks that the allocator cannot fill, because passes differ in
    length and oneDNN, which computes in bfloat16, keeps a little of every length."""
    if job.device == "cuda":
        return _GPU_SLACK
    share = _NARROW_SLACK if job.compute_bytes < FLOAT32_BYTES else _WIDE_SLACK
    return share + (_DROPOUT_SLACK if job.has_dropout else 0)


def kept_probabilities(length: int, prefix: int = 0) -> int:
    """Entries of one head's probabilities that are kept of a document: the tiles on and below its diagonal.

    Of a document that goes on from a shared prefix of `prefix` tokens: the rows of its own tokens.
    """
    if length > LONGEST_KEPT_PROBABILITIES:
        return 0
    num_tiles = max(1, (length - prefix + _ROWS_PER_TILE // 2) // _ROWS_PER_TILE)
    edges = [*(prefix + _ROWS_PER_TILE * i for i in range(num_tiles)), length]
    return sum((last - first) * last for first, last in pairwise(edges))


def saved_layer_bytes(job: Job, one_pass: Pass, recompute: Recompute) -> int:
    """What one layer keeps of a pass for its backward pass."""
    narrow, wide, tokens = job.compute_bytes, job.stream_bytes, one_pass.tokens
    stream, norm_output = job.hidden * wide, job.hidden * narrow
    is_unfused = job.trains_all or not job.is_fused
    # under autocast every product narrows its input for itself
    num_qkv_copies, num_mlp_copies = (3, 2) if job.trains_all and wide != narrow else (1, 1)
    attention = (2 * job.query_size + 2 * job.key_size) * narrow
    mlp = (3 if is_unfused else 2) * job.intermediate * narrow
    factor = _UNFUSED if is_unfused and not job.trains_all and recompute != "full" else 1.0
    per_token = {
        "none": 2 * stream + (num_qkv_copies + num_mlp_copies) * norm_output + attention + mlp,
        "norms": 2 * stream + attention + mlp,
        "mlp": 2 * stream + attention,
        "full": stream,
    }
    if num_qkv_copies > 1:  # the copies are not the norm's own output
        per_token["norms"] = per_token["none"]
        per_token["mlp"] += num_qkv_copies * norm_output
    kept = tokens * FLOAT32_BYTES if job.device == "cuda" else one_pass.probabilities * narrow
    probabilities = 0 if recompute == "full" else job.num_heads * kept
    ranks = 0 if recompute == "full" else job.narrow_values * narrow
    return int(factor * tokens * (per_token[recompute] + ranks)) + probabilities


def predict(job: Job, one_pass: Pass, recompute: Recompute) -> dict[str, int]:
    """Bytes of each part of the peak of one process; their sum is the prediction."""
    kept = job.num_layers * saved_layer_bytes(job, one_pass, recompute)
    activations = kept + 2 * one_pass.tokens * job.hidden * job.stream_bytes
    work = max(_layer_work(job, one_pass, recompute), _head_work(job, one_pass))
    state = _state_bytes(job)
    snapshot = {"snapshot": state["checkpoint"]} if job.has_snapshot else {}  # of the same tensors
    if one_pass.is_alone and job.trains_all and job.stream_bytes == job.compute_bytes:
        # they come into being while the backward pass frees what the layers kept; autocast needs both at a time
        state["gradients"] = max(0, state["gradients"] - activations)
    return {
        "process": job.process_bytes,
        **state,
        **snapshot,
        "activations": activations,
        "work": work,
        "slack": int(slack_share(job) * (activations + work)),
    }


def _state_bytes(job: Job) -> dict[str, int]:
    """Weights, gradients, moments, and what a checkpoint copies of them beside them."""
    narrow, num = job.compute_bytes, job.num_trainable
    copies = 1 if job.device == "cpu" else 0
    if job.trains_all and not job.is_widened:
        moments, saved = int(num * job.moment_bytes), num * (job.master_bytes or narrow)
        weights = num * (narrow + job.master_bytes)
        return {
            "weights": weights,
            "gradients": num * narrow,
            "moments": moments,
            "checkpoint": copies * (saved + moments),
        }
    wide = num * max(narrow, FLOAT32_BYTES)
    held = job.num_base * narrow if job.base_bytes is None else job.base_bytes
    base = 0 if job.trains_all else held
    narrowed = num * narrow if job.trains_all and narrow < FLOAT32_BYTES else 0
    return {"weights": base + wide + narrowed, "gradients": wide, "moments": 2 * wide, "checkpoint": 3 * copies * wide}


def _layer_work(job: Job, one_pass: Pass, recompute: Recompute) -> int:
    """Gradients inside one layer, and what of it was made anew."""
    narrow = job.compute_bytes
    inner = one_pass.tokens * (3 * job.intermediate * narrow + 3 * job.hidden * job.stream_bytes)
    anew = saved_layer_bytes(job, one_pass, "none") - saved_layer_bytes(job, one_pass, recompute)
    return inner + max(0, anew)


def _head_work(job: Job, one_pass: Pass) -> int:
    """Logits of a chunk, and where the head trains its gradient and that of the embedding that it is."""
    rows = min(one_pass.taught, ROWS_OF_HEAD)
    hidden = 2 * one_pass.taught * job.hidden * job.stream_bytes
    if not job.trains_all:
        tokens = min(job.vocab, TOKENS_OF_HEAD[job.device])
        return hidden + rows * (tokens * 2 * FLOAT32_BYTES + 3 * job.hidden * FLOAT32_BYTES)
    table = job.vocab * job.hidden * FLOAT32_BYTES
    return hidden + rows * job.vocab * job.compute_bytes + (2 if job.is_tied else 1) * table


def budget_bytes(
    *, free_bytes: int, own_bytes: int, num_sharing: int, memory_gb: float | None = None
) -> int:  # fmt: skip
    """What one process may hold at its peak: what it has, and its share of what is free (or `memory_gb`, if less)."""
    share = own_bytes + int(SHARE_OF_FREE * free_bytes / num_sharing)
    return share if memory_gb is None else min(share, int(memory_gb * 1e9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a step is cut and what is recomputed, with the peak that follows."""

    micro_batch: int
    recompute: Recompute
    predicted_bytes: int
    budget_bytes: int
    tokens: int
    """of the largest pass"""
    parts: dict[str, int] = field(default_factory=dict)
    """bytes of each part of the prediction"""

    @property
    def fits(self) -> bool:
        return self.predicted_bytes <= self.budget_bytes

    def sentence(self, num_lanes: int = 1) -> str:
        """For people, before training begins; the samples may be shared among passes at the same time."""
        samples = "1 sample" if self.micro_batch == 1 else f"{self.micro_batch} samples"
        anew = "no recompute" if self.recompute == "none" else f"recompute {self.recompute}"
        at_a_time = "a pass" if num_lanes == 1 else f"at a time in {num_lanes} passes"
        what = f"{samples} (up to {self.tokens:,} tokens) {at_a_time}, {anew}"
        of = f"{self.predicted_bytes / 1e9:.2g} GB of {self.budget_bytes / 1e9:.2g} GB"
        if self.fits:
            return f"memory: predicts {of}: {what}"
        return f"memory: predicts {of}, more than there is, with {what}: shorter samples or a smaller model would help"


Parts = Callable[[Job, Pass, Recompute], Mapping[str, int]]
"""what predicts the peak, part by part"""


def choose(
    job: Job, passes: Mapping[int, Pass], *, budget_bytes: int, enough_tokens: int,
    levels: Sequence[Recompute] = LEVELS, parts: Parts = predict,
) -> Choice:  # fmt: skip
    """The first way to compute a step that fits; `passes`: samples a pass -> the largest one; `parts`: of the peak.

    Passes are as large as brings speed and not larger. Where they do not fit, smaller ones come before recomputing
    what is costly; outputs of norms are cheap. Where nothing fits, the way that needs least.
    """
    ways = [
        Choice(
            micro_batch=micro,
            recompute=level,
            predicted_bytes=sum(found.values()),
            budget_bytes=budget_bytes,
            tokens=passes[micro].tokens,
            parts=found,
        )
        for micro, level in _ways(passes, enough_tokens, levels)
        for found in (dict(parts(job, passes[micro], level)),)
    ]
    return next((way for way in ways if way.fits), min(ways, key=lambda way: way.predicted_bytes))


def _ways(
    passes: Mapping[int, Pass], enough_tokens: int, levels: Sequence[Recompute]
) -> Iterator[tuple[int, Recompute]]:  # fmt: skip
    rising = sorted(passes)
    useful = next((i for i, micro in enumerate(rising) if passes[micro].tokens >= enough_tokens), len(rising) - 1)
    for group in (("none", "norms"), ("mlp",), ("full",)):
        for micro in reversed(rising[: useful + 1]):
            yield from ((micro, level) for level in levels if level in group)
