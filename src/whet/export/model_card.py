"""README.md of an export: base, proof, data, settings, verdict, limits and licence, from what the run wrote down.

Nothing is assumed: what the run folder does not say is called not recorded. Names come from recipes and datasets of
anybody, so every one of them is escaped: it cannot end a table, make a link or become HTML.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from whet.atomic import write_text
from whet.errors import StorageError
from whet.models.folder import read_json
from whet.recipe import load_recipe
from whet.recipe.schema import Recipe, Source
from whet.recipe.splits import source_kind
from whet.types import ModelIdentity
from whet.verdict.words import change, short_unit

NAME = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_MOST_HEAD_CHARACTERS = 100_000
_BOUNDS = ("estimate", "low", "high")
_COUNTS = ("kept", "bad", "left out", "too long", "duplicate", "truncated")
_SETTINGS = {
    "adapter": ("method", "rank", "alpha", "dropout", "targets", "init", "rslora"),
    "optim": ("name", "lr", "schedule", "warmup", "weight_decay", "max_grad_norm"),
    "batch": ("global_size", "unit"),
    "train": ("epochs", "max_steps", "fit_seconds"),
    "data": ("template", "max_length"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model card says besides what it finds in the run folder."""

    run_folder: Path
    title: str
    what: str
    """one sentence: what the files are"""
    base: ModelIdentity
    base_folder: Path | None = None
    """where the base's own README.md may state its licence"""
    proof: str | None = None
    """the proof in one sentence; None: not proved"""
    notes: Sequence[str] = ()
    """sentences that a reader must know"""
    more: Sequence[str] = ()
    """paragraphs on how to use it, Markdown of whet's own"""


def write_model_card(folder: Path, card: Card) -> None:
    """Write README.md into `folder`, with front matter that the hub reads; StorageError when the run is damaged."""
    recipe = load_recipe(card.run_folder / "recipe.yaml") if (card.run_folder / "recipe.yaml").is_file() else None
    licence = _licence(card.base_folder)
    revision = f" in revision {escape(card.base.revision)}" if card.base.revision else ""
    base = f"The base is {escape(card.base.id)}{revision}, weights SHA-256 {escape(card.base.weights_sha256)}."
    note = f"About the base: {escape(card.base.note)}." if card.base.note else ""
    proved = (
        f"Equality with what was trained (proof.json): {escape(card.proof)}." if card.proof else "Not proved equal."
    )
    sections = [
        f"# {escape(card.title)}",
        f"{card.what} {base} {note}".strip(),
        *[escape(text) for text in card.notes],
        proved,
        *card.more,
        "## Did tuning help?",
        *_results(card.run_folder, recipe),
        "## Data",
        *_data(card.run_folder, recipe),
        "## Settings",
        _settings(recipe),
        *_ending(card.run_folder),
        "## How to load it",
        _loading(folder, card.base),
        "## Licence",
        _licence_line(licence),
    ]
    write_text(folder / NAME, _front_matter(folder, card.base, licence) + "\n" + "\n\n".join(sections) + "\n")


def _ending(run_folder: Path) -> list[str]:
    """Which checkpoint was best and by what, and whose weights the run ended with."""
    path = run_folder / "summary.json"
    found = read_json(path).get("sentences", []) if path.is_file() else []
    return [f"Of the run: {'; '.join(escape(sentence) for sentence in found)}."] if found else []


def escape(text: object) -> str:
    """`text` on one line, as Markdown that shows exactly these characters."""
    line = " ".join(str(text).split())
    shown = html.escape("".join(character for character in line if character.isprintable()), quote=False)
    # no link by itself either
    unlinked = shown.replace("://", ":&#47;/").replace("www.", "www&#46;").replace("@", "&#64;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", unlinked)


def _front_matter(folder: Path, base: ModelIdentity, licence: str | None) -> str:
    """YAML that the hub reads. JSON is YAML, so every value is written as JSON."""
    is_adapter = any((folder / name).is_file() for name in ("adapter_config.json", "adapter.gguf"))
    values: dict[str, Any] = {"library_name": _library(folder), "pipeline_tag": "text-generation"}
    if _is_hub_id(base.id):
        values["base_model"] = base.id
        values["base_model_relation"] = "adapter" if is_adapter else "finetune"
    if licence is not None:
        values["license"] = licence
    lines = [
        f"{key}: {json.dumps(value)}" for key, value in (values | {"tags": ["whet", *["lora"] * is_adapter]}).items()
    ]
    return "\n".join(["---", *lines, "---", ""])


def _library(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "peft"
    return "gguf" if any(folder.glob("*.gguf")) else "transformers"


def _is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None


def _results(run_folder: Path, recipe: Recipe | None) -> list[str]:
    """Verdict and numbers of every comparison, then what was not measured."""
    paragraphs = []
    measured = set()
    for path in sorted((run_folder / "evaluations").glob("*/comparison.json")):
        comparison = read_json(path)
        try:
            measured.add(str(comparison["dataset"]))
            primary = next(iter(comparison.get("metrics", [])), {"name": "answer_accuracy", "unit": "share"})
            metric, unit = escape(primary["name"].removeprefix("answer_")), str(primary["unit"])
            estimate, low, high = (change(float(comparison["difference"][key]), unit) for key in _BOUNDS)
            level = 100 * float(comparison["difference"]["level"])
            role = "" if comparison.get("role", "main") == "main" else f", {escape(comparison['role'])}"
            paragraphs.append(
                f"**{escape(comparison['dataset'])}** ({int(comparison['num_rows']):,} rows{role}): "
                f"**{escape(comparison['verdict'])}**, {estimate} {escape(short_unit(unit))} of {metric} "
                f"({level:.0f} % interval {low} to {high})."
            )
            paragraphs.append("\n".join(f"- {escape(sentence)}" for sentence in comparison["sentences"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"is damaged ({type(error).__name__}: {error})", where=str(path), mend="evaluate this run again"
            ) from error
    asked = [] if recipe is None else [e.name for e in recipe.evaluate if e.name not in measured]
    if asked:
        paragraphs.append(f"Asked for but not evaluated: {', '.join(map(escape, asked))}.")
    if not measured:
        paragraphs.append("**Not evaluated**: nobody has measured whether tuning helped.")
    paragraphs.append(
        "Limitations: nothing else was measured. Other tasks and languages, truthfulness, bias and safety may have "
        "become better or worse, and what the base gets wrong this model may get wrong too."
    )
    return paragraphs


def _data(run_folder: Path, recipe: Recipe | None) -> list[str]:
    if recipe is None:
        return ["Not recorded: the folder holds no recipe."]
    lines = [f"- {_source_line(source)}" for source in recipe.data.train]
    path = run_folder / "ledger.json"
    return ["\n".join(lines), _ledger_table(path) if path.is_file() else "The account of the rows is not recorded."]


def _source_line(source: Source) -> str:
    """One source; of a file only its name, never a path of the machine."""
    is_file = source_kind(source) == "file"
    name = PurePath(source.source).name if is_file else source.source
    facts = [f"split {source.split}"]
    facts += [f"{key} {value}" for key in ("config", "revision", "rows", "weight") if (value := getattr(source, key))]
    return f"{escape(name)} ({escape(', '.join(facts))})"


def _ledger_table(path: Path) -> str:
    """Rows of every set by what became of them."""
    try:
        rows = [
            [str(each["name"]), *[f"{int(n):,}" for n in (each["num_rows"], *(each["counts"][c] for c in _COUNTS))]]
            for each in read_json(path)["sets"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"is damaged ({type(error).__name__}: {error})", where=str(path)) from error
    return _table(["set", "rows", *_COUNTS], rows)


def _settings(recipe: Recipe | None) -> str:
    if recipe is None:
        return "Not recorded: the folder holds no recipe."
    document = asdict(recipe)
    rows = [["seed", str(recipe.seed)]]
    for section, keys in _SETTINGS.items():
        if section == "adapter" and recipe.adapter.method == "none":
            rows.append(["adapter.method", "none (all weights were trained)"])
            continue
        rows += [[f"{section}.{k}", _shown(document[section][k])] for k in keys if document[section][k] is not None]
    return _table(["setting", "value"], rows)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *[[escape(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _loading(folder: Path, base: ModelIdentity) -> str:
    library = _library(folder)
    if library == "gguf":
        names = ", ".join(f"`{path.name}`" for path in sorted(folder.glob("*.gguf")))
        return f"llama.cpp and Ollama read {names}."
    base_name = repr(base.id) if _is_hub_id(base.id) else repr("FOLDER-OF-THE-BASE")
    code = (
        [
            "from peft import PeftModel",
            f"model = AutoModelForCausalLM.from_pretrained({base_name})",
            "model = PeftModel.from_pretrained(model, FOLDER)",
        ]
        if library == "peft"
        else ["model = AutoModelForCausalLM.from_pretrained(FOLDER)"]
    )
    imported = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    lines = [imported, *code, "tokenizer = AutoTokenizer.from_pretrained(FOLDER)"]
    return "\n".join(["```python", *lines, "```"])


def _licence(base_folder: Path | None) -> str | None:
    """The licence in the front matter of the base's README.md; None when it says none."""
    path = None if base_folder is None else base_folder / NAME
    if path is None or not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(_MOST_HEAD_CHARACTERS)
    front = re.match(r"---\r?\n(.*?)\r?\n---", head, re.DOTALL)
    # one line of it alone: what a YAML library would make of the rest is the author's choice
    stated = re.findall(r"^license:[ \t]*(['\"]?)([\w.+-]{1,60})\1[ \t\r]*$", front[1] if front else "", re.M | re.A)
    return stated[0][1] if len(stated) == 1 else None


def _licence_line(licence: str | None) -> str:
    if licence is None:
        return "Not recorded. The licence of the base and the terms of the data apply."
    return f"The base is under {escape(licence)}; the terms of the data apply as well."
