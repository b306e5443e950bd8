"""Settings that carry Hugging Face's names in every tool that is built on its Trainer: batch, length, schedule, ..."""

from __future__ import annotations

from dataclasses import dataclass

from whet.errors import RecipeError
from whet.recipe.importers.best import read_best
from whet.recipe.importers.sheet import Sheet

_PLAIN_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw_torch_xla", "adamw",
                "paged_adamw", "paged_adamw_32bit")  # fmt: skip
_SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
_QUANTISED = ("8bit", "4bit", "qlora", "bnb")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Processes that the file's batch is meant for."""

    size: int
    said_by: str
    """for the reader: where the number comes from"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What the tool does where its file is silent, and where its names differ from Hugging Face's."""

    lr: float
    schedule: str
    warmup: float
    epochs: float
    micro_size: int
    prefix: str = ""
    micro_key: str = "per_device_train_batch_size"
    epochs_key: str = "num_train_epochs"
    optimizer_key: str = "optim"


_TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


def read_training_arguments(sheet: Sheet, dialect: Dialect, world: World) -> None:
    """Take every TrainingArguments name; call it after the rows and the evaluation are known."""
    prefix = dialect.prefix
    sheet.map_number(f"{prefix}learning_rate", "optim.lr", dialect.lr)
    sheet.map_number(f"{prefix}weight_decay", "optim.weight_decay", None)
    sheet.map_number(f"{prefix}max_grad_norm", "optim.max_grad_norm", None)
    sheet.map_number(f"{prefix}adam_epsilon", "optim.eps", None)
    sheet.map_whole(f"{prefix}seed", "seed", None)
    sheet.map_whole(f"{prefix}save_total_limit", "train.keep", None)
    _read_betas(sheet, prefix)
    _read_data_seed(sheet, prefix)
    _read_batch(sheet, dialect, world)
    _read_length(sheet, dialect)
    _read_schedule(sheet, dialect)
    _read_optimizer(sheet, prefix + dialect.optimizer_key)
    _read_precision(sheet, prefix)
    _read_cadence(sheet, prefix)
    read_best(sheet, prefix)
    _read_trackers(sheet, f"{prefix}report_to")
    if "evaluate" in sheet.tree:
        sheet.map_whole(f"{prefix}per_device_eval_batch_size", "evaluate.0.batch_rows", None)
    else:
        sheet.drop(f"{prefix}per_device_eval_batch_size", "passes of the validation loss are cut by batch.micro_size")


def _read_betas(sheet: Sheet, prefix: str) -> None:
    first, second = f"{prefix}adam_beta1", f"{prefix}adam_beta2"
    betas = [sheet.number(first, 0.9), sheet.number(second, 0.999)]
    for key in (first, second):
        sheet.map(key, "optim.betas", betas)


def _read_data_seed(sheet: Sheet, prefix: str) -> None:
    key = f"{prefix}data_seed"
    if not sheet.is_on(key) or sheet.whole(key, 0) == sheet.whole(f"{prefix}seed", 42):
        sheet.drop(key, "one seed decides order, start and dropout")
    else:
        sheet.refuse(key, "one seed decides order, start and dropout: the one of `seed` is taken")


def _read_batch(sheet: Sheet, dialect: Dialect, world: World) -> None:
    """The global batch is fixed for the world size that the file was written for: two nodes do not double it."""
    micro_key, steps_key = dialect.prefix + dialect.micro_key, f"{dialect.prefix}gradient_accumulation_steps"
    micro, accumulation = sheet.whole(micro_key, dialect.micro_size), sheet.whole(steps_key, 1)
    for key, value in ((micro_key, micro), (steps_key, accumulation)):
        if value < 1:
            raise RecipeError(f"must be at least 1 (found {value})", where=key)
    whole = micro * accumulation * world.size
    product = f"{micro} x {accumulation} accumulation x {world.size} processes ({world.said_by})"
    named = f"{dialect.prefix}global_batch_size"
    if named in sheet:
        sheet.map_whole(named, "batch.global_size", None)
        sheet.drop(steps_key, "accumulation is derived from batch.global_size")
    elif steps_key in sheet:
        sheet.map(steps_key, "batch.global_size", whole, product)
    else:
        sheet.notes.append(f"batch.global_size = {whole}: {product}")
        sheet.put("batch.global_size", whole)
    sheet.map_whole(micro_key, "batch.micro_size", dialect.micro_size)
    for key in ("accelerate.num_processes", "num_processes"):
        if sheet.is_on(key) and sheet.whole(key, 0) == world.size:
            sheet.map(key, "batch.global_size", sheet.tree["batch"]["global_size"], "a factor of it")


def _read_length(sheet: Sheet, dialect: Dialect) -> None:
    steps_key, epochs_key = f"{dialect.prefix}max_steps", dialect.prefix + dialect.epochs_key
    if sheet.is_on(steps_key) and sheet.whole(steps_key, -1) > 0:
        sheet.map_whole(steps_key, "train.max_steps", None)
        sheet.drop(epochs_key, "max_steps is set and wins, as in Hugging Face's Trainer")
        return
    sheet.drop(steps_key, "not set: the run is as long as its epochs")
    sheet.map_number(epochs_key, "train.epochs", dialect.epochs)


def _read_schedule(sheet: Sheet, dialect: Dialect) -> None:
    prefix = dialect.prefix
    key = next((k for k in (f"{prefix}lr_scheduler_type", f"{prefix}lr_scheduler") if k in sheet), "")
    name = sheet.text(key, dialect.schedule)
    schedule = _SCHEDULES.get(name, dialect.schedule)
    if key and name in _SCHEDULES:
        sheet.map(key, "optim.schedule", schedule)
    else:
        sheet.refuse(key, f"schedules are {', '.join(sorted(set(_SCHEDULES.values())))}: {schedule} is taken")
        sheet.put("optim.schedule", schedule)
    steps_key, share_key = f"{prefix}warmup_steps", f"{prefix}warmup_ratio"
    if name == "constant":
        for other in (steps_key, share_key):
            sheet.drop(other, "Hugging Face's `constant` ignores the warm-up (constant_with_warmup has one)")
        sheet.put("optim.warmup", 0)
    elif sheet.number(steps_key, 0) > 0:
        sheet.map(steps_key, "optim.warmup", sheet.number(steps_key, 0))
        sheet.drop(share_key, "warmup_steps is set and wins, as in Hugging Face's Trainer")
    else:
        sheet.drop(steps_key, "0 steps: the share counts")
        sheet.map_number(share_key, "optim.warmup", dialect.warmup)


def _read_optimizer(sheet: Sheet, key: str) -> None:
    name = sheet.text(key, "adamw_torch").lower()
    if any(word in name for word in _QUANTISED):
        what = "quantises (lora-ns: the model, elsewhere Adam's moments)"
        sheet.refuse(key, f"{name} {what}; here `model.quantize` and `optim.name: adamw_8bit` do")
    elif name in _PLAIN_ADAMW:
        sheet.map(key, "optim.name", "adamw")
    else:
        sheet.refuse(key, "the optimizer is AdamW")


def _read_precision(sheet: Sheet, prefix: str) -> None:
    bf16, fp16 = f"{prefix}bf16", f"{prefix}fp16"
    if sheet.text(bf16).lower() == "auto":
        sheet.map(bf16, "model.dtype", "auto")
    elif sheet.boolean(bf16):
        sheet.map(bf16, "model.dtype", "bfloat16")
    else:
        sheet.drop(bf16, "not asked for")
    if sheet.is_on(fp16) and sheet.text(fp16) != "auto" and sheet.boolean(fp16):
        sheet.refuse(fp16, "float16 needs loss scaling and is not offered; model.dtype auto chooses")
    else:
        sheet.drop(fp16, "not asked for")


def _read_cadence(sheet: Sheet, prefix: str) -> None:
    for key in (f"{prefix}eval_strategy", f"{prefix}evaluation_strategy", f"{prefix}save_strategy"):
        word = sheet.text(key)
        if word == "epoch" and "save" in key:
            sheet.drop(key, "epoch ends are always saved")
        else:
            sheet.drop(key, "a number of steps in train.eval_every and train.save_every, else a tenth of the run")
    has_validation = "validation" in sheet.tree.get("data", {})
    for key, whet_key in ((f"{prefix}eval_steps", "train.eval_every"), (f"{prefix}save_steps", "train.save_every")):
        every = sheet.number(key, 0)
        if every >= 1 and (has_validation or whet_key == "train.save_every"):
            sheet.map_whole(key, whet_key, None)
        elif every >= 1:
            sheet.drop(key, "there are no validation rows")
        elif every > 0:
            sheet.refuse(key, f"a share of the run is not offered: set {whet_key} to a number of steps")
        else:
            sheet.drop(key, "not set: a tenth of the run")


def _read_trackers(sheet: Sheet, key: str) -> None:
    """Trackers that whet has; another one that the file asks for is named as lost."""
    asked = [name.lower() for name in sheet.texts(key) if name and name.lower() not in ("none", "null")]
    if lost := [name for name in asked if name not in _TRACKERS]:
        sheet.refuse(key, f"{', '.join(lost)} is not offered; `tracking` takes {', '.join(_TRACKERS)}")
    else:
        sheet.map(key, "tracking", asked)
