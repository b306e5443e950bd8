"""What a run is: the typed recipe. The docstring under each field is its documentation, with its unit.

`whet recipe reference` turns this file into the reference page and the JSON schema. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from whet.recipe.section import section as _section
from whet.recipe.tracked_as import TrackedAs

Positive = Annotated[int, Field(ge=1)]
RowFormat = Literal[
    "auto", "messages", "prompt_completion", "alpaca", "question_answer", "sharegpt", "text",
    "gsm8k", "metamathqa", "fiqa", "dolly", "squad",
]  # fmt: skip
Start = Literal["default", "gaussian", "orthogonal", "pissa", "pissa_fast", "olora", "eva", "corda", "lora_ga"]
STARTS_INSIDE_BASE: tuple[Start, ...] = ("pissa", "pissa_fast", "olora", "corda", "lora_ga")
"""Initialisations whose first product B A is a part of the base weights, to be subtracted again."""
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
MetricName = Literal[
    "answer_accuracy", "exact_match", "token_f1", "rouge1", "rouge2", "rougeL", "bleu", "semantic_similarity",
    "loss", "perplexity", "token_accuracy", "answer_length", "stop_rate", "seconds_per_example",
]  # fmt: skip


@_section
class Model:
    """Which pretrained weights to start from."""

    id: str = "smollm2-135m-instruct"
    """Built-in name (`smollm2-135m-instruct`), hub id (`meta-llama/Llama-3.1-8B`) or local folder."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the commit that was used is recorded with the run."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Number format of frozen weights and of matrix products. `auto`: bfloat16 where the hardware multiplies
    it fast (CUDA, CPUs with AMX or AVX512-BF16), else float32. Trained weights are always float32 or wider."""
    quantize: Literal["none", "nf4", "int8", "fp8"] = "none"
    """Keep the frozen linear layers in 4 bits (NF4, QLoRA, arXiv:2305.14314) or 8 bits, through bitsandbytes
    (`pip install 'whet[quantize]'`), or in float8 (e4m3), whose products are faster on NVIDIA's Hopper and are emulated
    elsewhere; for adapters only. With `fp8` the rounding is for training alone (`docs/fp8.md`)."""
    loader: Literal["transformers", "nemo_automodel"] = "transformers"
    """What loads the base for training; `nemo_automodel` has an environment of its own (`docs/nemo-automodel.md`)."""


@_section
class Adapter:
    """Low-rank adapter (LoRA, arXiv:2106.09685) through PEFT; `method: none` trains all weights."""

    method: Literal["lora", "dora", "none"] = "lora"
    """`lora` trains an adapter, `dora` one that trains the length of the weight columns too (DoRA, arXiv:2402.09353),
    `none` all weights (supervised fine-tuning, SFT)."""
    rank: Positive = 8
    """Inner dimension r of the update (alpha / r) B A."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Probability that an input of the adapter is zeroed in training, one mask per projection."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Module names to adapt (`q_proj`, `v_proj`, ...) or `all-linear`: every linear layer but the output head."""
    init: Start = "default"
    """Where the factors start. `default`: A by Kaiming's rule, B zero. `pissa` (arXiv:2404.02948; `pissa_fast`: with a
    randomised SVD), `olora` (arXiv:2406.01775), `corda` (arXiv:2406.05223) and `lora_ga` (arXiv:2407.05000) start
    inside the base weights, which stay untouched: the start is subtracted. `eva` (arXiv:2410.07170), `corda` and
    `lora_ga` look at the first 64 training samples (or 16,384 tokens) of the run's order before the first step."""
    rslora: bool = False
    """Rank-stabilised scale alpha / sqrt(rank) instead of alpha / rank (arXiv:2312.03732)."""
    ranks: dict[str, Positive] = Field(default_factory=dict)
    """Another rank for some modules: `{q_proj: 16}`."""
    lr_ratio: Annotated[float, Field(gt=0)] = 1.0
    """Learning rate of B relative to that of A (LoRA+, arXiv:2402.12354, suggests 16)."""
    also_train: tuple[Literal["norms", "embeddings"], ...] = ()
    """Other weights to train along with the adapter: all norm weights, or the input embedding."""


@_section
class Source:
    """One source of rows."""

    source: str
    """File (`rows.jsonl`, `.json`, `.csv`, `.parquet`), `reasoning-gym:TASK` for generated problems, or hub id."""
    split: str = "train"
    """Split name; a slice such as `train[:500]` takes those rows. For generated problems: `train` or `test`. Of dolly
    and SQuAD also `validation` (and `test`) as NeMo cuts them, with its seed."""
    config: str | None = None
    """Configuration name of a hub dataset."""
    revision: str | None = None
    """Commit, tag or branch of a hub dataset."""
    format: RowFormat = "auto"
    """Shape of the rows; `auto` reads it off the first rows and says which it found."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Where the rows call a key of `format` by another name: `{question: ask, answer: reply}`."""
    stream: bool = False
    """Whether hub rows are read over the network while they are tokenized, without a copy of the dataset on disk.
    Files are always read row by row."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of this source in the mix, relative to the others (set on all sources or on none). An epoch keeps as many
    samples as there are rows; a source's rows are all used once before one is used again."""
    rows: Positive | None = None
    """Take at most this many rows (after the split's own order); for generated problems, how many to make."""
    system: str | None = None
    """System message put before every row that has none."""
    instruction: str | None = None
    """Sentence appended to the user's question, the same for training and for evaluating base and tuned."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Settings of the generator (for `reasoning-gym:` sources), e.g. `min_words: 3`."""


@_section
class Data:
    """Rows to train on and how they become tokens."""

    train: tuple[Source, ...]
    """Sources of training rows, taken together and shuffled; `weight` mixes them in other shares."""
    validation: tuple[Source, ...] = ()
    """Sources of rows for the evaluation loss; must share no row with `train`."""
    template: Literal["chat", "plain"] = "chat"
    """`chat`: a chat template, the tokenizer's own unless `chat_template` names one; `plain`: prompt and answer as they
    are, then the end token."""
    chat_template: Literal["own", "llama-3", "llama-3.1", "nemotron-nano", "smollm2"] = "own"
    """`own`: the tokenizer's; another name: that family's, for a base model whose tokenizer has none."""
    prompt: str | None = None
    """With `template: plain`, the text around every question, in training, evaluation, chat and serving alike: a name
    (`fiqa`, `metamath`, `gsm8k`, `nemo`) or a text with `{question}`."""
    reasoning: Literal["on", "off"] | None = None
    """Reasoning switch of Nemotron-Nano, written into the system message (`detailed thinking on`)."""
    max_length: Positive = 1024
    """Longest sample, in tokens; with `batch.unit: packs` also the length of a pack."""
    over_length: Literal["drop", "truncate_prompt", "error"] = "drop"
    """What happens to a longer sample; counted and named. The answer is never cut."""
    bad_rows: Literal["error", "drop"] = "error"
    """What happens to a row that cannot be read: stop before training, or leave it out, counted and kept in
    quarantine.jsonl of the run folder."""
    duplicates: Literal["keep", "drop"] = "keep"
    """What happens to a training row that says the same as an earlier one; counted either way."""
    shared_rows: Literal["error", "drop"] = "error"
    """What happens to a validation or evaluation row that asks what a training row asks: stop before training, or leave
    the held-out row out, counted and named."""
    max_dropped: str = "1%"
    """Most rows of a set that may be dropped (`1%` of its rows, or a number of rows such as `20`); more stop the run
    before training. Repeated and shared rows and rows that a dataset's own rule leaves out do not count."""


@_section
class Batch:
    """How many samples make one optimizer step. The global batch is the truth; accumulation is derived."""

    global_size: Positive = 16
    """Samples per optimizer step over all ranks and micro-batches."""
    unit: Literal["samples", "packs"] = "samples"
    """What `global_size` counts. `samples`: each step takes exactly the samples that it would take without packing,
    laid end to end in passes of about equal length. `packs`: samples are first packed into rows of at most
    `data.max_length` tokens (best fit), and a step takes that many rows: fastest where samples are short, but
    another split into steps."""
    micro_size: Positive | Literal["auto"] = "auto"
    """Samples (on average) or packs per forward pass and rank; affects memory and speed, not the result. `auto`: chosen
    from the length of the samples and the free memory when the run begins, and kept when it is continued."""
    share_prefix: bool | Literal["auto"] = "auto"
    """Whether what all samples of a pass begin with (chat template, system prompt) is computed once. Loss and gradients
    are the same up to rounding; with `adapter.dropout`, samples that begin alike have one mask for it. `auto`: where it
    is at least 5 % of the training tokens, decided when the run begins and kept when it is continued."""


@_section
class Optim:
    """Optimizer and learning-rate schedule."""

    name: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw` (arXiv:1711.05101), or `adamw_8bit` with moments of 8 bits (arXiv:2110.02861). Where all weights train
    in bfloat16, the latter rounds them at random instead of keeping float32 ones: 6 bytes per weight."""
    master: Literal["none", "float32"] = "none"
    """Where all weights train in bfloat16: `none` holds them in float32 and narrows them in every pass, 18 bytes per
    weight; `float32` holds weights and gradients in bfloat16 and float32 masters, to which updates are applied, 16
    bytes. Gradients of several passes are then summed in bfloat16: let one pass be a step where it fits."""
    lr: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of Adam's first and second moments."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay; not applied to biases and norm weights."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this global L2 norm; 0 switches clipping off."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after warm-up: to zero at the last step (cosine, linear) or level."""
    warmup: Annotated[float, Field(ge=0)] = 0.03
    """Below 1: share of all steps, rounded up; 1 or more: number of steps."""


@_section
class Guard:
    """Go back and pass over samples whose loss or gradient is not finite or a spike, instead of stopping. Off by
    default: a value that is not finite then ends the run before the update (exit code 4)."""

    max_rollbacks: Annotated[int, Field(ge=0)] = 0
    """How often a run may go back to its last snapshot in memory; the next time it ends. 0: off."""
    spike: Annotated[float, Field(gt=0)] = 8.0
    """A loss or gradient norm is a spike above median + spike x spread of the last steps, the spread being 1.4826 x
    their median absolute deviation and at least 1 % of the median."""
    window: Annotated[int, Field(ge=10)] = 50
    """Steps that a value is compared with; nothing is a spike before half of them are made."""
    snapshot_every: Positive = 20
    """Optimizer steps between snapshots (weights and moments, in the host's memory): most steps that are made again."""


@_section
class Train:
    """Length of the run, cadences and machine."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training rows; ignored when `max_steps` or `fit_seconds` is set."""
    max_steps: Positive | None = None
    """Optimizer steps."""
    fit_seconds: Annotated[float, Field(gt=0)] | None = None
    """Time budget in seconds: three steps and a checkpoint are measured, and the step count that fits is written into
    the plan before training; never more than `epochs`."""
    save_every: Positive | None = None
    """Optimizer steps between checkpoints; default a tenth of the run, and with `fit_seconds` so seldom that they add a
    tenth to its time at the most. Epoch ends are saved too."""
    keep: Positive = 2
    """Checkpoints kept (the newest), besides checkpoint-best."""
    eval_every: Positive | None = None
    """Optimizer steps between evaluations of the validation loss; default a tenth of the run."""
    best_metric: str = "eval/loss"
    """Decides which checkpoint is kept as checkpoint-best: `eval/loss` or `eval/token_accuracy` of the validation rows,
    or a metric of answers in training: `eval/answer_accuracy` (of the first evaluation set that has it) or
    `eval/<set>/<metric>`."""
    best_direction: Literal["auto", "lower", "higher"] = "auto"
    """Which values of `best_metric` are better; `auto` knows it of every metric that has a direction."""
    patience: Positive | None = None
    """Early stopping: measurements of `best_metric` without a new best after which training ends."""
    min_improvement: Annotated[float, Field(ge=0)] = 0.0
    """By how much a value must beat the best one to count as new best, in units of `best_metric`."""
    final: Literal["last", "best"] = "last"
    """Which weights the run ends with: those after the last step, or checkpoint-best's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is one, else the CPU."""
    threads: Positive | None = None
    """OpenMP threads per rank on the CPU; default the cores divided by the ranks on this machine."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory that each rank may use, in GB (10^9 bytes); default what is free, divided by the ranks that share it.
    `batch.micro_size: auto` and `train.recompute: auto` keep within it."""
    recompute: Literal["auto", "none", "norms", "mlp", "full"] = "auto"
    """What the backward pass computes anew instead of keeping it from the forward pass: the outputs of the norms, the
    whole second half of each layer too (`mlp`), or whole layers (`full`). Saves memory, costs time, changes no result.
    `auto`: the least that fits into memory."""
    loss_head: Literal["auto", "chunked", "torch", "liger"] = "auto"
    """Whose function computes output head and cross-entropy: whet's own in chunks, torch's, or liger-kernel's; equal up
    to rounding. `auto`: whet's own, the fastest wherever it was measured."""
    compile: bool = False
    """Compile each layer with torch.compile when all weights train: about 3 % shorter steps on a CPU after a minute of
    compiling, equal up to rounding, so for long runs. Needs a C++ compiler and recompute none. With an adapter nothing
    is compiled: its fused functions were as fast."""
    guard: Guard = Field(default_factory=Guard)


@_section
class Parallel:
    """How several ranks share a run: changes speed and memory, not results, and may change when a run is continued."""

    strategy: Literal["auto", "replicate", "fsdp", "hsdp"] = "auto"
    """`replicate`: every rank holds the whole model. `fsdp`: each rank holds a part of the weights, gradients and
    optimizer state and gathers the others' layer by layer (FSDP2, arXiv:2304.11277). `hsdp`: `fsdp` among `shards`
    ranks, with copies of the whole among them. `auto`: `replicate` where it fits into a rank's memory, else `fsdp`."""
    shards: Positive | None = None
    """Ranks that hold one copy of the weights together, with `hsdp`; default the ranks of a node."""
    tensor: Positive = 1
    """Ranks that share the work of each layer (tensor and sequence parallelism); they see the same rows."""
    timeout_seconds: Positive = 120
    """How long a rank waits for the others in a collective operation before the run stops (exit code 7)."""


@_section
class Evaluate:
    """One set of held-out rows on which base and tuned answer."""

    name: str
    """Label in reports."""
    source: Source
    """Held-out rows; must share no row with the training rows."""
    max_new_tokens: Positive = 256
    """Longest answer, in tokens; how many answers hit it is reported."""
    batch_rows: Positive = 32
    """Rows generated side by side."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy: always the most probable token. Above 0, answers are drawn, the same ones for the same `seed`."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With a temperature: draw among the fewest most probable tokens that together have this probability."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, which is cut before them; a recipe rarely needs them, because ends are trained."""
    metrics: tuple[MetricName, ...] = ("answer_accuracy",)
    """How answers are scored. The first is the primary metric, on which the verdict rests; p-values are adjusted for
    all of them (Holm). Which rows a metric can score and what must be installed stands in `whet.evaluation.metrics`."""
    judge: Literal["own", "math_verify"] = "own"
    """Who says whether an answer is right. `own`: the dataset's extraction and comparison (numbers, or text).
    `math_verify`: for answers that are formulas as in MATH (fractions, roots, intervals, sets), the library math-verify
    (`pip install 'whet[math]'`) in a child process with limits; the gold is what the row's answer marks as its own."""
    role: Literal["main", "other", "guard"] = "main"
    """`main`: the verdict of the run rests on this set. `guard`: rows of another kind, on which tuning must not lose.
    `other`: reported only."""
    every: Positive | None = None
    """Optimizer steps between answers of the model in training; default: answered only after it."""
    max_rows: Positive | None = None
    """Most rows that are answered in training, the first of the set; after it all are."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Time for the answers of one model to this set; how many rows were reached is reported."""


@_section
class Callback:
    """An optional part of the loop. `spectral`: refactor every adapter pair through its singular values."""

    name: Literal["spectral"]
    """Which one."""
    every: Positive = 100
    """Optimizer steps between refactorings."""
    mode: Literal["exact", "balanced"] = "exact"
    """`exact` leaves the product BA as it is; `balanced` pulls its singular values towards their mean, which changes
    the model and is reported."""
    balance: Fraction = 0.8
    """With `balanced`: share of their mean that the singular values take at the first step; it rises to 1 at the last
    (lambda of the lora-ns repository)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """No refactoring before this step."""
    cooldown_steps: Annotated[int, Field(ge=0)] = 0
    """No refactoring in this many last steps."""
    second_moments: Literal["map", "keep", "clear"] = "map"
    """What becomes of Adam's second moments, which no change of basis maps exactly (first moments are mapped). `map`:
    mapped as if the entries of a gradient were uncorrelated; `keep`: left as they are; `clear`: Adam starts anew for
    the adapter, first moments and step counter too, else the next steps would be some 30 times too long."""


@_section
class Recipe:
    """One run, whole. `load(dump(recipe)) == recipe`."""

    version: Literal[1] = 1
    """Version of this format."""
    name: str
    """Name of the run, in reports and trackers."""
    output: str
    """Run folder; created if missing."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Decides adapter initialisation, order of samples and dropout."""
    model: Model = Field(default_factory=Model)
    adapter: Adapter = Field(default_factory=Adapter)
    data: Data
    batch: Batch = Field(default_factory=Batch)
    optim: Optim = Field(default_factory=Optim)
    train: Train = Field(default_factory=Train)
    parallel: Parallel = Field(default_factory=Parallel)
    evaluate: tuple[Evaluate, ...] = ()
    """Answered by base and tuned after training, compared row by row."""
    callbacks: tuple[Callback, ...] = ()
    """Optional parts of the loop, called in this order."""
    tracking: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)
    """Trackers beside metrics.jsonl, which is always written; each is an extra: `pip install 'whet[wandb]'`."""
    tracked_as: TrackedAs = Field(default_factory=TrackedAs)
