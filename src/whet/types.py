"""Every value that crosses a package border: frozen dataclasses, no torch at run time.

Rows -> Example -> TokenizedSample -> PackedBatch -> StepRecord; Example -> Generation -> Judgement ->
EvalReport; two EvalReports -> Comparison. Each class states its invariant; tests/unit/test_types.py and the
laws in tests/numerics hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["system", "user", "assistant", "tool"]
TemplateKind = Literal["chat", "plain"]
SetRole = Literal["main", "other", "guard"]
"""of an evaluation set: the verdict rests on it, it is reported only, or nothing may be lost on it"""
Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    is_taught: bool = False
    """Whether the loss covers this turn (its text and its end-of-turn token)."""
    extra: str = ""
    """JSON object with what else the chat template reads of this turn (`tool_calls`, `name`, ...); mostly empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row in whet's own form. Invariant: `id` is unique in its dataset and stable across machines and shuffles."""

    id: str
    messages: tuple[Message, ...]
    """The last message is the answer of an evaluation row and is cut off before generating."""
    task: str
    """Name in `data.datasets.TASKS`: decides how an answer is extracted and judged."""
    golds: tuple[str, ...] = ()
    """Every accepted answer, already extracted; empty when the row is not scored."""
    origin: str = ""
    """Where the row came from, for messages: `file:line`, `hub id[split]:row` or the generator's parameters."""
    parameters: str = ""
    """Fingerprint of what a generated problem was made from; disjoint between splits by construction."""
    category: str = ""
    """Kind of the row, for breakdowns (dolly's category, a generated task's name, ...); empty where there is none"""
    tools: str = ""
    """JSON list of the tools that the conversation may call, as chat templates take it; mostly empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedSample:
    """Token ids of one example with the positions the loss covers.

    Invariants: at least one taught token; the ids before the first taught token are exactly what generation
    is prompted with; the last taught token ends the turn; `ids` and `taught` have the same length.
    """

    id: str
    ids: np.ndarray
    """int32 [num_tokens]"""
    taught: np.ndarray
    """bool [num_tokens]; `taught[t]` says that token t is predicted with loss (not yet shifted)."""

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def num_taught(self) -> int:
        """Taught tokens that have a predecessor to be predicted from (a document's first token has none)."""
        return int(self.taught[1:].sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """A row that does not reach training, and why."""

    origin: str
    reason: str


RowStatus = Literal["left out", "bad", "too long", "shared", "duplicate", "truncated"]
"""from what costs a row to what changes it a little; accounts list them the other way round"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One input row that did not go into training just as it was."""

    origin: str
    status: RowStatus
    """`bad` (cannot be used), `left out` (by the dataset's own rule), `too long` and `shared` (a held-out row that asks
    what a training row asks) were dropped; a `duplicate` says the same as an earlier row; a `truncated` one was trained
    with a shorter prompt"""
    reason: str
    num_tokens_cut: int = 0
    cut_from: str = ""
    """where tokens were cut: `beginning of message 2 (user)`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The account of every input row of one set. Invariant: num_rows = num_kept + len(rows), each row counted once."""

    name: str
    """`train` or `validation`"""
    num_rows: int
    num_kept: int
    """rows that became samples as they were and say nothing that an earlier row says"""
    rows: tuple[LedgerRow, ...]
    """all the others, in the order of the input"""
    drops_duplicates: bool = False

    def count(self, status: RowStatus) -> int:
        return sum(row.status == status for row in self.rows)

    @property
    def num_samples(self) -> int:
        """Rows that became samples."""
        duplicates = 0 if self.drops_duplicates else self.count("duplicate")
        return self.num_kept + self.count("truncated") + duplicates


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedSet:
    """All samples of one set with the account of its rows. Invariant: len(samples) == ledger.num_samples."""

    samples: Sequence[TokenizedSample]
    """in memory, or read from the token cache one by one"""
    lengths: np.ndarray
    """int32 [num_samples]: tokens of each sample"""
    num_taught: np.ndarray
    """int32 [num_samples]: taught tokens of each sample"""
    source_sizes: tuple[int, ...]
    """samples of each source, in the order of the recipe; sums to the number of samples"""
    ledger: Ledger
    fingerprint: str
    """SHA-256 over ids, tokens and taught marks in order: equal data gives equal fingerprints."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch: whole documents laid end to end in one row, no padding. Labels are already shifted.

    With a shared prefix the row begins with it, and each document goes on from there. Invariant: packed loss and
    gradients equal those of the documents run one by one.
    """

    ids_T: Tensor
    """int64 [T]"""
    positions_T: Tensor
    """int64 [T]; restarts at every document, at 0 or behind the shared prefix"""
    labels_T: Tensor
    """int64 [T]; the token to be predicted at each position, -100 where nothing is taught or a document ends"""
    taught_N: Tensor
    """int64 [N]; the positions that have a label, rising: a GPU that looked for them would have to be waited for"""
    offsets_D: Tensor
    """int32 [documents + 1]; where each document begins, and the end of the last one, were the prefix in each"""
    lengths: tuple[int, ...]
    """Tokens of each document, in order, without the shared prefix; with it they sum to T."""
    sample_ids: tuple[str, ...]
    sample_keys: tuple[int, ...]
    """A 63-bit number per document, the same wherever it is packed: seeds its dropout masks."""
    shared_prefix: int = 0
    """Tokens that all documents begin with, stored once at the beginning of the row."""
    mask_keys_T: np.ndarray | None = None
    """uint64 [T], in the host's memory; seeds dropout masks in place of `sample_keys` where prefixes may be shared"""

    @property
    def num_taught(self) -> int:
        return len(self.taught_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """The arithmetic of a run, decided once, written to run_plan.json and reused by resume.

    Invariants: pure function of (recipe, world size, number of samples) except for the fields under
    "measured"; global_batch = micro_batch x accumulation x world_size; steps by Hugging Face's formula.
    """

    world_size: int
    micro_batch: int
    """samples per forward pass and rank"""
    accumulation: int
    """forward passes per optimizer step and rank"""
    global_batch: int
    """samples per optimizer step over all ranks"""
    num_samples: int
    """samples in one epoch"""
    steps_per_epoch: int
    total_steps: int
    epochs: float
    warmup_steps: int
    save_every: int
    """optimizer steps between checkpoints (epoch ends are saved too)"""
    eval_every: int
    """optimizer steps between evaluations of the loss; 0 = only at the end"""
    # measured or read from the machine once, then fixed for the life of the run
    device: str = "cpu"
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    num_threads: int = 1
    """OpenMP threads per rank"""
    num_lanes: int = 1
    """passes of a rank at a time, on a CPU"""
    recompute: Literal["none", "norms", "mlp", "full"] = "none"
    """what the backward pass computes anew instead of keeping it"""
    predicted_memory_bytes: int | None = None
    """peak of each rank, foreseen when micro-batch and recompute were decided; None: could not be foreseen"""
    predicted_memory_parts: dict[str, int] | None = None
    """bytes of each part of it in training (estimate/memory.py); where reading the model took more, that is the peak"""
    longest_matmul_document: int = 1024
    """tokens up to which a document's attention goes through plain matrix products on the CPU"""
    attention: Literal["documents", "torch", "flash-attn"] = "documents"
    """whose function computes attention on a GPU: one call for each document, or a library's for all of a pack"""
    loss_head: Literal["chunked", "torch", "liger"] = "chunked"
    """whose function computes output head and cross-entropy"""
    is_compiled: bool = False
    """whether each layer goes through torch.compile"""
    share_prefix: bool = False
    """whether what the samples of a pass begin with is computed once"""
    not_in_float8: tuple[str, ...] = ()
    """with `model.quantize: fp8`: linear layers whose rounding would cost the loss too much"""
    measured_seconds_per_step: float | None = None
    """median of the measured steps when the step count was fitted to a time budget"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One line of metrics.jsonl: what one optimizer step did."""

    step: int
    """1 for the first update"""
    epoch: float
    loss: float
    """summed negative log-likelihood / taught tokens of the whole step, in nats per token"""
    lr: float
    grad_norm: float
    """before clipping"""
    num_tokens: int
    num_taught: int
    seconds: float
    """of the step, with the time that a checkpoint held it up; no evaluation"""
    tokens_per_second: float
    batch_hash: str
    """SHA-256 (16 hex digits) over the sample ids of the step in order"""
    data_seconds: float = 0.0
    """waiting for the rows of the step; this and what follows are parts of `seconds`, the rest is other work"""
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0
    optimizer_seconds: float = 0.0
    """clipping and the update"""
    communication_seconds: float = 0.0
    """sending gradients and waiting for the other ranks"""
    save_seconds: float = 0.0
    """held up by checkpoints since the line before"""
    straggler: int | None = None
    """the rank whose own work took over 1.2 times as long as the median rank's in the last steps; None: none did"""
    memory_bytes: float | None = None
    """that rank 0 holds: on its GPU, else in the host's memory; None: not known"""
    gpu_percent: float | None = None
    """of the last second in which the GPU of rank 0 worked, as its driver says; None: no GPU, or no nvidia-ml-py"""


PARTS_OF_STEP = ("data", "forward", "backward", "optimizer", "communication", "save")
"""what StepRecord has as `<part>_seconds`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which weights these are, without a machine path."""

    id: str
    """hub id, built-in name, or the folder's own name"""
    revision: str | None
    weights_sha256: str
    """SHA-256 over the weight files"""
    note: str = ""
    """what a reader must know, e.g. that the weights were dequantised"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the model wrote for one example."""

    example_id: str
    prompt: str
    text: str
    num_new_tokens: int
    stopped: Literal["stop_token", "stop_string", "length"]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One generation scored. `is_correct` uses the lenient extraction, `has_format` the asked-for answer format."""

    example_id: str
    extracted: str
    golds: tuple[str, ...]
    is_correct: bool
    has_format: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """Generations and judgements of one model on one dataset, in the dataset's order."""

    model: str
    """`base` or the run's name"""
    dataset: str
    decoding: str
    """canonical text of the decoding settings; two reports compare only when it is equal"""
    rows_fingerprint: str
    """SHA-256 over example ids and rendered prompts"""
    generations: tuple[Generation, ...]
    judgements: tuple[Judgement, ...]
    seconds: float
    weights: str = ""
    """weights hash, live or merged, dtype"""
    code: str = ""
    """version of the code that rendered the prompts, wrote the answers and judged them"""
    num_rows_of_set: int = 0
    """rows that the set has: more than were answered when time was limited; 0: not known"""
    scores: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    """metric -> a score for each row, None where a row has none; the first metric is the primary one"""
    figures: dict[str, float] = field(default_factory=dict)
    """what only the whole set has, by name: `corpus_perplexity`, `corpus_bleu`"""
    categories: tuple[str, ...] = ()
    """category of each row; empty where rows have none"""
    seen_in_training: tuple[str, ...] = ()
    """ids of rows that share a question, or words beyond boilerplate, with the rows the model was tuned on"""
    role: SetRole = "main"

    @property
    def accuracy(self) -> float:
        return sum(j.is_correct for j in self.judgements) / max(1, len(self.judgements))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A point estimate with a confidence interval at `level`."""

    estimate: float
    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric of base and tuned on the same rows, or the primary one on the rows of a category.

    Invariant: every row counts in base, tuned and difference alike.
    """

    name: str
    """of the metric, or of the category"""
    unit: str
    """`share, 0 to 1`, `BLEU points, 0 to 100`, `words`, ...; means and difference are in it"""
    higher_is_better: bool | None
    """None: neither direction is a gain, so there is no verdict"""
    num_rows: int
    num_left_out: int
    """rows that a model has no score for"""
    base_mean: float
    tuned_mean: float
    difference: Interval
    """tuned minus base"""
    p_value: float
    """two-sided"""
    adjusted_p: float | None
    """Holm over all metrics of the set that have a direction, or over the categories; None without a direction"""
    detectable: float | None
    """smallest difference that so many rows with this spread find in four studies of five; None: they find none"""
    verdict: Verdict | None
    base_seed_means: tuple[float, ...] = ()
    """each seed's own mean, where base is several runs"""
    tuned_seed_means: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """One row under both models, scored by the primary metric (the mean over seeds where there are several)."""

    example_id: str
    base: float
    tuned: float

    @property
    def difference(self) -> float:
        return self.tuned - self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Base against tuned on the same rows with the same decoding, or it would have been refused.

    "Base" is whatever stands in base's place: the model before tuning, another run, or the mean of several seeds.
    """

    dataset: str
    num_rows: int
    base_accuracy: Interval
    """share of answers judged right, whatever the primary metric"""
    tuned_accuracy: Interval
    difference: Interval
    """tuned minus base, of the primary metric, in its unit"""
    wins: int
    """rows on which tuned is better by the primary metric (for right and wrong: that only tuned got right)"""
    losses: int
    p_value: float
    """of the primary metric, two-sided, not adjusted"""
    verdict: Verdict
    """on the primary metric, by the rule of verdict/rule.py"""
    base_format_rate: float
    """share of base answers in the asked-for format"""
    tuned_format_rate: float
    base_stop_rate: float
    """share of base generations that ended by themselves"""
    tuned_stop_rate: float
    sentences: tuple[str, ...] = field(default=())
    """the verdict in words, for people"""
    role: SetRole = "main"
    primary: str = "answer_accuracy"
    """name of the primary metric"""
    metrics: tuple[MetricComparison, ...] = ()
    """the primary one first; empty in files of earlier versions"""
    categories: tuple[MetricComparison, ...] = ()
    gains: tuple[RowChange, ...] = ()
    """the ten rows that gained most by the primary metric, the largest gain first"""
    setbacks: tuple[RowChange, ...] = ()
    """the ten rows that lost most"""
    seen_in_training: tuple[str, ...] = ()
    """ids of rows that a compared model may know from its training rows"""
    verdict_without_seen: Verdict | None = None
    """what the other rows alone say; None where no row was seen, or where no other is left"""
    base_name: str = "base"
    tuned_name: str = "tuned"
    num_base_seeds: int = 1
    num_tuned_seeds: int = 1
