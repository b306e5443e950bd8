"""Axolotl's YAML: base_model, datasets with their types, sequence_len, micro_batch_size, lora_* and the rest."""

from __future__ import annotations

from whet.errors import RecipeError
from whet.recipe.importers.adapter import LoraNames, read_lora, without_adapter
from whet.recipe.importers.hub_datasets import hub_name, map_config
from whet.recipe.importers.sheet import Sheet
from whet.recipe.importers.splits import hold_out
from whet.recipe.importers.training_arguments import Dialect, World, read_training_arguments

TOOL = "Axolotl"
WORLD = World(size=1, said_by="the file does not say; --world-size changes it")
_DIALECT = Dialect(
    lr=2e-4, schedule="cosine", warmup=0.03, epochs=1, micro_size=1, micro_key="micro_batch_size",
    epochs_key="num_epochs", optimizer_key="optimizer",
)  # fmt: skip
_LORA = LoraNames(
    rank="lora_r",
    alpha="lora_alpha",
    dropout="lora_dropout",
    targets="lora_target_modules",
    rslora="peft_use_rslora",
    dora="peft_use_dora",
    init="peft_init_lora_weights",
    default_rank=8,
    default_alpha=16,
    default_dropout=0.0,
)
FAMILIES = {
    "llama3": "llama-3",
    "llama-3": "llama-3",
    "llama31": "llama-3.1",
    "llama3.1": "llama-3.1",
    "tokenizer_default": "own",
    "chatml": "smollm2",
}
_FORMATS = {
    "alpaca": "alpaca",
    "chat_template": "messages",
    "completion": "text",
    "sharegpt": "sharegpt",
    "alpaca_chat": "alpaca",
}
_CUSTOM = {"field_instruction": "instruction", "field_input": "input", "field_output": "output"}


def is_axolotl(keys: set[str]) -> bool:
    """By its own names; `keys` are those at the top."""
    return "base_model" in keys and bool(keys & {"datasets", "micro_batch_size", "sequence_len", "adapter"})


def read(sheet: Sheet, world: World) -> None:
    """Every key of the file."""
    if sheet.is_on("rl"):
        raise RecipeError(f"trains by {sheet.text('rl')}", where="rl", mend="whet does supervised fine-tuning")
    sheet.map_model("base_model")
    sheet.map_text("revision_of_model", "model.revision")
    sheet.map_text("output_dir", "output")
    sheet.map_text("wandb_project", "tracked_as.project")
    sheet.map_text("wandb_name", "tracked_as.name")
    if sheet.is_on("wandb_project"):
        sheet.put("tracking", ["tensorboard", "wandb"])
    sheet.tree.setdefault("output", "model-out")
    sheet.put("name", sheet.tree["output"].rstrip("/").rsplit("/", 1)[-1])
    _read_adapter(sheet)
    for index in range(max(1, sheet.num_sections("datasets"))):
        _read_source(sheet, index)
    _read_template(sheet)
    sheet.map_whole("sequence_len", "data.max_length", 512)
    hold_out(sheet, "val_set_size")
    _read_packing(sheet)
    _read_cadences(sheet)
    read_training_arguments(sheet, _DIALECT, world)


def _read_adapter(sheet: Sheet) -> None:
    method = sheet.text("adapter").lower()
    if method in ("", "none"):
        sheet.map("adapter", "adapter.method", "none")
        sheet.put("adapter.method", "none")
        reason = "no adapter is asked for: all weights are trained"
        without_adapter(sheet, _LORA, reason)
        for key in sheet.keys("lora_"):
            sheet.drop(key, reason)
        return
    if method == "lora":
        sheet.map("adapter", "adapter.method", "lora")
    else:
        sheet.refuse(
            "adapter", f"{method}: LoRA on the base as it is, is taken; model.quantize=nf4 would keep it in 4 bits"
        )
    if sheet.boolean("lora_target_linear"):
        sheet.map("lora_target_linear", "adapter.targets", "all-linear")
        sheet.drop("lora_target_modules", "lora_target_linear takes every linear layer")
    else:
        sheet.drop("lora_target_linear", "not asked for")
    read_lora(sheet, _LORA)


def _read_source(sheet: Sheet, index: int) -> None:
    at, to = f"datasets.{index}", f"data.train.{index}"
    files = sheet.texts(f"{at}.data_files")
    name = hub_name(sheet.text(f"{at}.path"))
    if files:
        sheet.map(f"{at}.data_files", f"{to}.source", files[0])
        if len(files) > 1:
            sheet.notes.append(f"only the first of {len(files)} data_files of {at} is taken: add the others as sources")
        sheet.drop(f"{at}.path", "data_files names the rows")
    else:
        sheet.map_rows(f"{at}.path", f"{to}.source", name)
    map_config(sheet, f"{at}.name", files[0] if files else name, f"{to}.config")
    sheet.map_text(f"{at}.split", f"{to}.split")
    sheet.map_text(f"{at}.revision", f"{to}.revision")
    sheet.drop(f"{at}.ds_type", "the suffix of the file says it")
    _read_type(sheet, at, to)
    _read_fields(sheet, at, to)


def _read_type(sheet: Sheet, at: str, to: str) -> None:
    """A prompt strategy by name, or one that is written out field by field."""
    key, word = f"{at}.type", sheet.text(f"{at}.type")
    kind = word.partition(".")[0]
    if any(f"{key}.{name}" in sheet for name in (*_CUSTOM, "format")):
        sheet.put(f"{to}.format", "alpaca")
        fields = {ours: sheet.text(f"{key}.{theirs}") for theirs, ours in _CUSTOM.items() if f"{key}.{theirs}" in sheet}
        for theirs, ours in _CUSTOM.items():
            sheet.map(f"{key}.{theirs}", f"{to}.fields", fields, f"{ours} of the alpaca form")
        _read_custom_prompt(sheet, key)
    elif kind in _FORMATS:
        sheet.map(key, f"{to}.format", _FORMATS[kind])
        if kind in ("alpaca", "completion"):
            sheet.put("data.template", "plain")
        if kind == "alpaca":
            sheet.put("data.prompt", "metamath")
            sheet.notes.append(
                "data.prompt = metamath: that is alpaca's text; Axolotl words rows with an input otherwise, here the "
                "input follows the instruction"
            )
        if kind == "sharegpt":
            sheet.put("data.template", "chat")
    else:
        sheet.refuse(key, "the format is read off the rows (auto); if that fails, set format and fields of the source")


def _read_custom_prompt(sheet: Sheet, key: str) -> None:
    text = sheet.text(f"{key}.no_input_format") or sheet.text(f"{key}.format")
    prompt = text.replace("{instruction}", "{question}").replace("{input}", "").replace("\\n", "\n")
    used = f"{key}.no_input_format" if f"{key}.no_input_format" in sheet else f"{key}.format"
    if prompt.count("{question}") == 1:
        sheet.put("data.template", "plain")
        sheet.map(used, "data.prompt", prompt)
    else:
        sheet.refuse(used, "needs one place for the instruction")
    if used != f"{key}.format":
        sheet.refuse(f"{key}.format", "one text serves rows with and without input: the one without is taken")


def _read_fields(sheet: Sheet, at: str, to: str) -> None:
    fields = {}
    for theirs, ours in (("field_messages", "messages"), ("message_field_role", "role"), ("field", "text"),
                         ("message_property_mappings.role", "role"), ("message_field_content", "content"),
                         ("message_property_mappings.content", "content")):  # fmt: skip
        key = f"{at}.{theirs}"
        if key in sheet and sheet.text(key) == ours:
            sheet.drop(key, "the rows call it by whet's name")
        elif key in sheet:
            fields[ours] = sheet.text(key)
            sheet.map(key, f"{to}.fields", dict(fields))
    for key in (f"{at}.roles_to_train", f"{at}.train_on_eos"):
        value = ",".join(sheet.texts(key))
        if value in ("assistant", "turn", "gpt", "last", ""):
            sheet.drop(key, "answers and their ends are what is taught here too")
        else:
            sheet.refuse(key, "answers and their ends are taught; other turns by `train` of each message in the rows")


def _read_template(sheet: Sheet) -> None:
    key = "chat_template"
    is_plain = sheet.tree["data"].get("template") == "plain"
    if is_plain:
        sheet.drop(key, "the rows are not rendered by a chat template")
    elif sheet.text(key) in FAMILIES:
        sheet.map(key, "data.chat_template", FAMILIES[sheet.text(key)])
    elif key in sheet:
        sheet.refuse(
            key, "templates are the tokenizer's own, llama-3, llama-3.1, nemotron-nano and smollm2: own is taken"
        )


def _read_packing(sheet: Sheet) -> None:
    if sheet.boolean("sample_packing"):
        sheet.map("sample_packing", "batch.unit", "packs", "a pack of sequence_len tokens counts as one sample")
    else:
        sheet.drop("sample_packing", "rows are laid end to end without padding; a step takes the same samples")
    sheet.drop("eval_sample_packing", "the validation loss does not depend on packing")


def _read_cadences(sheet: Sheet) -> None:
    for key in ("saves_per_epoch", "evals_per_epoch"):
        sheet.drop(key, "a number of steps in train.save_every and train.eval_every; epoch ends are saved anyway")
