"""YAML of the lora-ns repository: sections model, peft, trainer, dataset, training, wandb."""

from __future__ import annotations

from whet.errors import RecipeError
from whet.recipe.importers.adapter import LoraNames, read_lora
from whet.recipe.importers.hub_datasets import evaluate_math, hub_name, leave_out_shared, map_config
from whet.recipe.importers.sheet import Sheet
from whet.recipe.importers.spectral import read_trainer
from whet.recipe.importers.splits import without
from whet.recipe.importers.training_arguments import Dialect, World, read_training_arguments
from whet.recipe.prompts import PROMPTS, QUESTION

TOOL = "lora-ns"
WORLD = World(size=8, said_by="the guide's 8 GPUs; --world-size changes it")
_DIALECT = Dialect(lr=2e-4, schedule="cosine", warmup=0.03, epochs=3, micro_size=8, prefix="training.")
_LORA = LoraNames(
    rank="peft.lora_r",
    alpha="peft.lora_alpha",
    dropout="peft.lora_dropout",
    targets="peft.target_modules",
    rslora="peft.use_rslora",
    dora="peft.use_dora",
    init="peft.init_lora_weights",
    default_rank=8,
    default_alpha=16,
    default_dropout=0.1,
    default_init="gaussian",
)
_ANSWERS = ("{response}", "{answer}", "{output}", "{completion}", "{target}")
_QUESTIONS = (QUESTION, "{query}", "{instruction}", "{input}", "{prompt}")
_NOT_READ = "lora-ns never reads this section"


def is_lora_ns(keys: set[str]) -> bool:
    """By its sections; `keys` are those at the top."""
    return len(keys & {"peft", "dataset", "training", "task_name", "task_type"}) >= 2


def read(sheet: Sheet, world: World) -> None:
    """Every section of the file."""
    if sheet.text("task_type", "CAUSAL_LM") != "CAUSAL_LM":
        raise RecipeError(
            f"trains a {sheet.text('task_type')} model", where="task_type", mend="whet tunes causal language models"
        )
    method = sheet.text("peft.method", "lora")
    if method != "lora":
        raise RecipeError(f"trains by {method}", where="peft.method", mend="whet trains LoRA adapters or all weights")
    sheet.map_text("task_name", "name")
    if "name" not in sheet.tree:
        sheet.put("name", "lora-ns")
    sheet.map_text("training.output_dir", "output")
    if "output" not in sheet.tree:
        sheet.put("output", f"outputs/{sheet.tree['name']}")
    sheet.map_model("model.name_or_path")
    sheet.map("peft.method", "adapter.method", "lora")
    _read_variant(sheet)
    read_trainer(sheet)
    _read_dataset(sheet)
    sheet.drop("training.eval_steps", "lora-ns ignores it too: total_eval_times decides there, a tenth of the run here")
    sheet.drop("training.save_steps", "lora-ns ignores it too: total_eval_times decides there, a tenth of the run here")
    if "evaluate" in sheet.tree:
        sheet.map_whole("generation.max_new_tokens", "evaluate.0.max_new_tokens", None)
    sheet.drop("early_stopping_patience", "lora-ns reads it for classification alone")
    read_training_arguments(sheet, _DIALECT, world)
    _read_wandb(sheet)
    for section in ("sft.", "accelerate."):
        for key in sheet.keys(section):
            sheet.drop(key, _NOT_READ)
    sheet.notes.append(
        "the loss covers the answer and its end; lora-ns trains the prompt too and never an end of the answer"
    )


def _read_wandb(sheet: Sheet) -> None:
    """Project, tags and whether anything is sent; the name there is made of settings that are tags here."""
    sheet.map_text("wandb.project", "tracked_as.project")
    if "wandb.tags" in sheet:
        sheet.map("wandb.tags", "tracked_as.tags", sheet.texts("wandb.tags"))
    if "wandb.online" in sheet:
        sheet.map("wandb.online", "tracked_as.online", sheet.boolean("wandb.online"))
    sheet.drop("wandb.run_name_suffix", "lora-ns never reads it; `tracked_as.name` names the run")


def _read_variant(sheet: Sheet) -> None:
    """LoRA, with the later files' one word for what the earlier ones say by `use_rslora` and `use_dora`."""
    read_lora(sheet, _LORA)
    key = "peft.variant"
    homes = {"rslora": ("adapter.rslora", True), "dora": ("adapter.method", "dora")}
    word = sheet.text(key, "lora")
    if word in homes:
        sheet.map(key, *homes[word])
    elif word == "lora":
        sheet.drop(key, "plain LoRA")


def _read_dataset(sheet: Sheet) -> None:
    name = hub_name(sheet.text("dataset.name"))
    sheet.map_rows("dataset.name", "data.train.0.source", name)
    if not name:
        for key in ("dataset.subset", "dataset.train_split", "dataset.eval_split"):
            sheet.refuse(key, "the file names no dataset")
        _read_prompt(sheet)
        sheet.map_whole("dataset.max_length", "data.max_length", 2048)
        return
    config = map_config(sheet, "dataset.subset", name, "data.train.0.config")
    _read_splits(sheet, name, config)
    _read_prompt(sheet)
    sheet.map_whole("dataset.max_length", "data.max_length", 2048)
    evaluate_math(sheet, name, TOOL)
    if "evaluate" in sheet.tree:
        sheet.drop("dataset.test_split", "lora-ns never reads it; the held-out rows stand in evaluate")


def _read_splits(sheet: Sheet, name: str, config: str | None) -> None:
    train, held_out = sheet.text("dataset.train_split", "train"), sheet.text("dataset.eval_split")
    if not held_out:
        sheet.map("dataset.train_split", "data.train.0.split", train)
        sheet.drop("dataset.eval_split", "it is empty: no validation loss")
        return
    left = without(name, train, held_out)
    if left is None:
        sheet.map("dataset.train_split", "data.train.0.split", train)
        sheet.refuse("dataset.eval_split", f"its rows lie inside {train}, which is not cut in two: no validation loss")
        return
    leak = f"a leak in the file: {held_out} lies inside {train}; those rows are not trained on" if left != train else ""
    sheet.map("dataset.train_split", "data.train.0.split", left, leak)
    if "dataset.train_split" not in sheet:
        sheet.put("data.train.0.split", left)
        if leak:
            sheet.notes.append(f"data.train.0.split = {left}: {leak}")
    sheet.map("dataset.eval_split", "data.validation.0.split", held_out)
    leave_out_shared(sheet, name)
    sheet.put("data.validation.0.source", name)
    if config:
        sheet.put("data.validation.0.config", config)


def _read_prompt(sheet: Sheet) -> None:
    """The text up to the answer, with whet's name for the question's place."""
    key = "dataset.prompt_template"
    sheet.put("data.template", "plain")
    template = sheet.text(key)
    if not template.strip():
        sheet.drop(key, "it is empty")
        return
    prompt = template
    for place in _ANSWERS:
        prompt = prompt.partition(place)[0]
    for place in _QUESTIONS:
        if place in prompt and QUESTION not in prompt:
            prompt = prompt.replace(place, QUESTION)
    if prompt.count(QUESTION) != 1:
        sheet.refuse(key, f"needs one place for the question, such as {QUESTION}")
        return
    known = next((label for label, text in PROMPTS.items() if text == prompt), prompt)
    sheet.map(key, "data.prompt", known, "the text before the answer; an end token follows the answer")
