"""Flat YAML of Hugging Face's TrainingArguments or TRL's SFTConfig, with PEFT's keys: what `trl sft --config` takes."""

from __future__ import annotations

from whet.recipe.importers.adapter import LoraNames, read_lora, without_adapter
from whet.recipe.importers.hub_datasets import evaluate_math, hub_name, leave_out_shared, map_config
from whet.recipe.importers.sheet import Sheet
from whet.recipe.importers.splits import without
from whet.recipe.importers.training_arguments import Dialect, World, read_training_arguments

TOOL = "TRL / Hugging Face"
WORLD = World(size=1, said_by="the file does not say; --world-size changes it")
_TRL_KEYS = {"dataset_name", "dataset_text_field", "max_length", "max_seq_length", "packing", "use_peft",
             "assistant_only_loss", "completion_only_loss", "lora_r", "datasets"}  # fmt: skip
_TRL = Dialect(lr=2e-5, schedule="linear", warmup=0.0, epochs=3, micro_size=8)
_TRAINER = Dialect(lr=5e-5, schedule="linear", warmup=0.0, epochs=3, micro_size=8)
_OWN_KEYS = {"model_name_or_path", "per_device_train_batch_size", "num_train_epochs", "output_dir", "dataset_name",
             "learning_rate", "gradient_accumulation_steps", "base_model_name_or_path"}  # fmt: skip


def is_hugging_face(keys: set[str]) -> bool:
    """By flat names of TrainingArguments, SFTConfig and ModelConfig; `keys` are those at the top."""
    return len(keys & _OWN_KEYS) >= 2


def read(sheet: Sheet, world: World) -> None:
    """Every key of the file."""
    model = "model_name_or_path" if "model_name_or_path" in sheet else "base_model_name_or_path"
    sheet.map_model(model)
    if sheet.text("model_revision", "main") != "main":
        sheet.map_text("model_revision", "model.revision")
    else:
        sheet.drop("model_revision", "the newest commit; the one used is recorded")
    sheet.map_text("output_dir", "output")
    sheet.map_text("run_name", "name")
    sheet.tree.setdefault("output", "outputs/trl")
    sheet.tree.setdefault("name", sheet.tree["output"].rstrip("/").rsplit("/", 1)[-1])
    _read_dtype(sheet)
    _read_adapter(sheet)
    is_trl = any(key in sheet for key in _TRL_KEYS)
    _read_rows(sheet)
    length = "max_length" if "max_length" in sheet else "max_seq_length"
    sheet.map_whole(length, "data.max_length", 1024)
    _read_packing(sheet)
    read_training_arguments(sheet, _TRL if is_trl else _TRAINER, world)


def _read_dtype(sheet: Sheet) -> None:
    for key in ("dtype", "torch_dtype"):
        word = sheet.text(key).removeprefix("torch.")
        if word in ("auto", "float32", "bfloat16"):
            # bf16 of TrainingArguments decides the products; whet has one setting for weights and products
            sheet.map(key, "model.dtype", word)
        elif word:
            sheet.refuse(key, f"{word} is not offered; model.dtype auto chooses")


def _read_adapter(sheet: Sheet) -> None:
    flat = "lora_r" in sheet or "lora_alpha" in sheet or sheet.is_on("use_peft")
    bare = "r" in sheet or "peft_type" in sheet
    is_model_config = flat and "r" not in sheet
    names = LoraNames(
        rank="lora_r" if "lora_r" in sheet else "r",
        alpha="lora_alpha",
        dropout="lora_dropout",
        targets="lora_target_modules" if "lora_target_modules" in sheet else "target_modules",
        rslora="use_rslora",
        default_rank=16 if is_model_config else 8,
        default_alpha=32 if is_model_config else 8,
        default_dropout=0.05 if is_model_config else 0.0,
    )
    if ("use_peft" in sheet and not sheet.boolean("use_peft")) or not (flat or bare):
        sheet.map("use_peft", "adapter.method", "none")
        sheet.put("adapter.method", "none")
        without_adapter(sheet, names, "use_peft is off: all weights are trained")
        return
    sheet.map("use_peft", "adapter.method", "lora")
    if "use_peft" not in sheet:
        sheet.notes.append("adapter.method = lora: the file has LoRA's keys but no use_peft, without which trl "
                           "itself trains all weights")  # fmt: skip
    if sheet.text("peft_type", "LORA").upper() == "LORA":
        sheet.drop("peft_type", "it is LoRA")
    read_lora(sheet, names)


def _read_rows(sheet: Sheet) -> None:
    if sheet.keys("datasets."):
        _read_mixture(sheet)
    else:
        _read_dataset(sheet)
    _read_text_field(sheet)
    evaluate_math(sheet, sheet.tree["data"]["train"][0]["source"], TOOL)


def _read_dataset(sheet: Sheet) -> None:
    name = hub_name(sheet.text("dataset_name"))
    sheet.map_rows("dataset_name", "data.train.0.source", name)
    if not name:
        for key in ("dataset_config", "dataset_train_split", "dataset_test_split", "dataset_streaming"):
            sheet.refuse(key, "the file names no dataset")
        return
    config = map_config(sheet, "dataset_config", name, "data.train.0.config")
    sheet.map_text("dataset_train_split", "data.train.0.split")
    if sheet.boolean("dataset_streaming"):
        sheet.map("dataset_streaming", "data.train.0.stream", True)
    else:
        sheet.drop("dataset_streaming", "not asked for")
    _read_held_out(sheet, name, config)


def _read_mixture(sheet: Sheet) -> None:
    """TRL's `datasets:`, a list of path, name, split and columns."""
    num = sheet.num_sections("datasets")
    for index in range(num):
        at, to = f"datasets.{index}", f"data.train.{index}"
        name = hub_name(sheet.text(f"{at}.path"))
        sheet.map_rows(f"{at}.path", f"{to}.source", name)
        map_config(sheet, f"{at}.name", name, f"{to}.config")
        sheet.map_text(f"{at}.split", f"{to}.split")


def _read_held_out(sheet: Sheet, name: str, config: str | None) -> None:
    """trl reads its test split only when it evaluates."""
    asks = sheet.text("eval_strategy", "no") != "no"
    split = sheet.text("dataset_test_split", "test")
    if not asks:
        sheet.drop("dataset_test_split", "the file asks for no evaluation (eval_strategy)")
        return
    train = sheet.text("dataset_train_split", "train")
    if without(name, train, split) != train:
        sheet.refuse("dataset_test_split", f"its rows are among those of {train}: no validation loss")
        return
    sheet.map("dataset_test_split", "data.validation.0.split", split)
    sheet.put("data.validation.0.source", name)
    sheet.put("data.validation.0.split", split)
    leave_out_shared(sheet, name)
    if config:
        sheet.put("data.validation.0.config", config)


def _read_text_field(sheet: Sheet) -> None:
    key = "dataset_text_field"
    if not sheet.is_on(key):
        return
    sheet.map(key, "data.train.0.fields", {"text": sheet.text(key)}, "running text: the loss covers all of it")
    for place in ("train", "validation"):
        for index in range(len(sheet.tree["data"].get(place, []))):
            sheet.put(f"data.{place}.{index}.format", "text")
            sheet.put(f"data.{place}.{index}.fields", {"text": sheet.text(key)})
    sheet.put("data.template", "plain")


def _read_packing(sheet: Sheet) -> None:
    if sheet.boolean("packing"):
        sheet.map("packing", "batch.unit", "packs", "as in TRL, a pack of max_length tokens counts as one sample")
