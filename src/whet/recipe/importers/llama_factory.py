"""LLaMA-Factory's flat YAML: stage sft, finetuning_type, lora_*, dataset names of dataset_info.json, cutoff_len."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whet.errors import RecipeError
from whet.json_text import read_json
from whet.recipe.importers.adapter import LoraNames, read_lora, without_adapter
from whet.recipe.importers.axolotl import FAMILIES
from whet.recipe.importers.hub_datasets import hub_name
from whet.recipe.importers.sheet import Sheet
from whet.recipe.importers.splits import hold_out
from whet.recipe.importers.training_arguments import Dialect, World, read_training_arguments

TOOL = "LLaMA-Factory"
WORLD = World(size=1, said_by="the file does not say; --world-size changes it")
_DIALECT = Dialect(lr=5e-5, schedule="linear", warmup=0.0, epochs=3, micro_size=8)
_LORA = LoraNames(
    rank="lora_rank",
    alpha="lora_alpha",
    dropout="lora_dropout",
    targets="lora_target",
    rslora="use_rslora",
    default_rank=8,
    default_alpha=None,
    default_dropout=0.0,
    default_targets="all-linear",
)
_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
_MANY = "max_samples"


def is_llama_factory(keys: set[str]) -> bool:
    """By its own names; `keys` are those at the top."""
    return bool(keys & {"finetuning_type", "cutoff_len", "dataset_dir"}) and bool(
        keys & {"model_name_or_path", "dataset", "stage"}
    )


def read(sheet: Sheet, world: World, *, base_folder: Path = Path()) -> None:
    """Every key of the file; dataset_info.json is looked for below `base_folder`."""
    stage = sheet.text("stage", "sft")
    if stage != "sft":
        raise RecipeError(f"trains by {stage}", where="stage", mend="whet does supervised fine-tuning (sft)")
    sheet.drop("stage", "supervised fine-tuning is what whet does")
    sheet.map_model("model_name_or_path")
    sheet.map_text("output_dir", "output")
    sheet.map_text("run_name", "name")
    sheet.tree.setdefault("output", "saves/whet")
    sheet.tree.setdefault("name", sheet.tree["output"].rstrip("/").rsplit("/", 1)[-1])
    _read_method(sheet)
    num_sources = _read_datasets(sheet, base_folder)
    _read_template(sheet)
    sheet.map_whole("cutoff_len", "data.max_length", 2048)
    if sheet.is_on(_MANY):
        for index in range(num_sources):
            sheet.put(f"data.train.{index}.rows", sheet.whole(_MANY, 0))
        sheet.map(_MANY, "data.train.0.rows", sheet.whole(_MANY, 0), "of every source")
    hold_out(sheet, "val_size")
    _read_weights(sheet, num_sources)
    if sheet.boolean("packing") or sheet.boolean("neat_packing"):
        for key in ("packing", "neat_packing"):
            sheet.map(key, "batch.unit", "packs", "a pack of cutoff_len tokens counts as one sample")
    else:
        for key in ("packing", "neat_packing"):
            sheet.drop(key, "rows are laid end to end without padding; a step takes the same samples")
    if not sheet.boolean("train_on_prompt"):
        sheet.drop("train_on_prompt", "the loss never covers the prompt here")
    read_training_arguments(sheet, _DIALECT, world)


def _read_method(sheet: Sheet) -> None:
    method = sheet.text("finetuning_type", "lora")
    if method == "lora":
        sheet.map("finetuning_type", "adapter.method", "lora")
        read_lora(sheet, _LORA)
        _read_pissa(sheet)
    elif method == "full":
        sheet.map("finetuning_type", "adapter.method", "none")
        without_adapter(sheet, _LORA, "finetuning_type full trains all weights")
    else:
        raise RecipeError(f"is {method}", where="finetuning_type", mend="whet trains LoRA adapters or all weights")


def _read_pissa(sheet: Sheet) -> None:
    """`pissa_iter` of -1 is the exact SVD, anything else the iterations of a randomised one (16 by default)."""
    if sheet.boolean("pissa_init"):
        start = "pissa" if sheet.whole("pissa_iter", 16) < 0 else "pissa_fast"
        for key in ("pissa_init", "pissa_iter"):
            sheet.map(key, "adapter.init", start)
    else:
        for key in ("pissa_init", "pissa_iter"):
            sheet.drop(key, "not asked for")


def _read_datasets(sheet: Sheet, base_folder: Path) -> int:
    """Names, resolved in dataset_info.json where it is at hand."""
    names = sheet.texts("dataset") or ["train"]
    folder = sheet.text("dataset_dir", "data")
    table = _dataset_info(base_folder / folder / "dataset_info.json")
    found = [_source(name, table.get(name), folder) for name in names]
    for index, source in enumerate(found):
        for key, value in source.items():
            sheet.put(f"data.train.{index}.{key}", value)
    missing = [name for name in names if name not in table and "/" not in name]
    if missing:
        sheet.refuse("dataset", f"{', '.join(missing)}: no such name in {folder}/dataset_info.json (looked for below "
                                f"{base_folder}); set data.train.0.source")  # fmt: skip
    else:
        sheet.map("dataset", "data.train.0.source", found[0]["source"], f"by {folder}/dataset_info.json")
    sheet.drop("dataset_dir", "the sources stand in data.train")
    return len(names)


def _dataset_info(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        table = read_json(file.read_bytes())
    except ValueError as error:
        raise RecipeError(f"is not JSON ({error})", where=str(file)) from error
    return table if isinstance(table, dict) else {}


def _source(name: str, info: Any, folder: str) -> dict[str, Any]:
    """One entry of dataset_info.json as a source of the recipe."""
    if not isinstance(info, dict):
        return {"source": hub_name(name) if "/" in name else f"{folder}/{name}.json"}
    source: dict[str, Any] = {}
    if "file_name" in info:
        source["source"] = f"{folder}/{info['file_name']}"
    else:
        source["source"] = hub_name(str(info.get("hf_hub_url") or info.get("script_url") or name))
    for theirs, ours in (("subset", "config"), ("split", "split"), ("num_samples", "rows")):
        if info.get(theirs):
            source[ours] = info[theirs]
    columns = info.get("columns") or {}
    if info.get("formatting") == "sharegpt":
        tags = info.get("tags") or {}
        source["format"] = "messages" if tags.get("role_tag") == "role" else "sharegpt"
        if columns.get("messages"):
            ours = "messages" if source["format"] == "messages" else "conversations"
            source["fields"] = {} if columns["messages"] == ours else {ours: columns["messages"]}
    else:
        source["format"] = "alpaca"
        source["fields"] = {_COLUMNS[k]: v for k, v in columns.items() if k in _COLUMNS and _COLUMNS[k] != v}
    return {key: value for key, value in source.items() if value != {}}


def _read_template(sheet: Sheet) -> None:
    word = sheet.text("template")
    if word in FAMILIES:
        sheet.map("template", "data.chat_template", FAMILIES[word])
    elif word == "alpaca":
        sheet.put("data.template", "plain")
        sheet.map("template", "data.prompt", "metamath", "that is alpaca's text")
    elif word:
        sheet.refuse(
            "template", "templates are llama-3, llama-3.1, nemotron-nano and smollm2: the tokenizer's own is taken"
        )


def _read_weights(sheet: Sheet, num_sources: int) -> None:
    key = "interleave_probs"
    weights = [float(text) for text in sheet.texts(key)]
    if len(weights) == num_sources and weights:
        for index, weight in enumerate(weights):
            sheet.put(f"data.train.{index}.weight", weight)
        sheet.map(key, "data.train.0.weight", weights[0], "of every source its own")
    elif weights:
        sheet.refuse(key, f"{len(weights)} shares for {num_sources} sources")
