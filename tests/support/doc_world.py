"""The folder that a page's commands run in: the repository's recipes and scripts with small means.

What a page says is typed as it stands. Small are the recipes that it names: two steps, a few generated rows in the
schema of the dataset that they name, short answers, and a tiny random model in place of the one they name. Programs
that would install, build or send something are stand-ins that print what they were asked for.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))
from small_rows import generated  # noqa: E402 (the rows that the notebooks are tried with)

COPIED = ("recipes", "configs", "examples", "accelerate_config", "notebooks", "docs", "tests/docs")
SCRIPTS = (
    "train.py",
    "inference.py",
    "merge_adapter.py",
    "validate_config.py",
    "evaluate_fiqa.py",
    "train_fiqa_peft.py",
)
STAND_INS = ("docker", "kubectl", "sky", "make", "pip", "jupyter")
"""programs that only print what they were asked for"""
BUILT_IN = "smollm2-135m-instruct"
DATASETS = {
    "openai/gsm8k": "gsm8k",
    "rajpurkar/squad": "squad",
    "databricks/databricks-dolly-15k": "dolly",
    "explodinggradients/fiqa": "fiqa",
    "meta-math/MetaMathQA": "gsm8k",
}
NUM_ROWS = {"train": 24, "validation": 4, "evaluate": 4}
SMALL_TRAIN = {"max_steps": 2, "save_every": 1, "eval_every": 1, "device": "cpu", "threads": 1}
TORCHRUN = """#!/usr/bin/env bash
# torchrun with two processes on this machine, however many and whichever machines are asked for
arguments=()
for word in "$@"; do
    case $word in
        8) word=2 ;;
        *=8) word=${word/=8/=2} ;;
        1:2) word=1 ;;
        node-0:*) word=127.0.0.1:0 ;;
    esac
    arguments+=("$word")
done
exec python -m torch.distributed.run "${arguments[@]}"
"""


def make_world(folder: Path, tiny_model: Path, *, is_real_model: bool = False) -> dict[str, str]:
    """Fill `folder`; returns the environment of its commands."""
    folder.mkdir()
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SCRIPTS:
        shutil.copy(ROOT / name, folder / name)
    write_programs(folder / "bin")
    environment = environment_of(folder, tiny_model, is_real_model=is_real_model)
    for path in (*(folder / "recipes").rglob("*.yaml"), *(folder / "configs").rglob("*.yaml")):
        if "version" in (document := yaml.safe_load(path.read_text(encoding="utf-8"))):
            path.write_text(yaml.safe_dump(small(document, folder, environment["DOCS_MODEL"])), encoding="utf-8")
    return environment


def environment_of(folder: Path, tiny_model: Path, *, is_real_model: bool) -> dict[str, str]:
    """A small, plain environment; the built-in model comes from the user's own cache, nothing from a hub."""
    names = (
        "PATH",
        "PYTHONPATH",
        "LANG",
        "TMPDIR",
        "VIRTUAL_ENV",
        "PIP_INDEX_URL",
        "PIP_CONFIG_FILE",
        "WHET_TEST_DATA",
    )
    kept = {name: os.environ[name] for name in names if name in os.environ}
    programs = [str(folder / "bin"), str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]
    return kept | {
        "HOME": str(folder),
        "WHET_CACHE": os.environ.get("WHET_CACHE") or str(Path.home() / ".cache" / "whet"),
        "PATH": os.pathsep.join(programs),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TINY_MODEL": str(tiny_model),
        "DOCS_MODEL": BUILT_IN if is_real_model else str(tiny_model),
        "SHRINK": f"{sys.executable} {__file__}",
    }


def write_programs(folder: Path) -> None:
    """The stand-ins, and torchrun with two processes."""
    folder.mkdir(parents=True)
    for name in STAND_INS:
        (folder / name).write_text(f'#!/usr/bin/env bash\necho "{name} $* (a stand-in)"\n', encoding="utf-8")
    (folder / "torchrun").write_text(TORCHRUN, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o755)


def write_tiny_model(folder: Path) -> Path:
    """A random Llama that reads long rows, with a chat template."""
    from tiny_folders import write_folder
    from tiny_tokenizers import build_chatml

    return write_folder(folder, build_chatml(), max_position_embeddings=4096, eos_token_id=2)


def small(document: dict[str, Any], folder: Path, model: str) -> dict[str, Any]:
    """A recipe with two steps, few rows, short answers and `model`."""
    data, evaluate = document["data"], document.get("evaluate", [])
    for part, sources in (
        ("train", data["train"]),
        ("validation", data.get("validation", [])),
        ("evaluate", [each["source"] for each in evaluate]),
    ):
        for number, source in enumerate(sources):
            shrink_source(source, part, folder, f"{part}-{number}")
    for each in evaluate:
        each["max_new_tokens"], each["batch_rows"] = 8, 4
        if "metrics" in each:
            each["metrics"] = [name for name in each["metrics"] if name != "semantic_similarity"]
        if "every" in each:
            each["every"] = 1
    for each in document.get("callbacks", []):
        each.update(every=1, warmup_steps=0)
    train = {k: v for k, v in document.get("train", {}).items() if k not in ("epochs", "fit_seconds")}
    return document | {
        "model": {"id": model, "dtype": "float32"},
        "train": train | SMALL_TRAIN,
        "batch": {"global_size": 4, "micro_size": 2},
        "tracking": [],
    }


def shrink_source(source: dict[str, Any], part: str, folder: Path, label: str) -> None:
    """Fewer rows of what is on this machine; generated rows in place of a dataset of the hub."""
    if source["source"].startswith("reasoning-gym:"):
        source["rows"] = NUM_ROWS[part]
        source["split"] = "test[4:8]" if part == "validation" else source.get("split", "train")
        if part == "train":
            source.pop("split")
    elif source["source"] in DATASETS:
        dataset = DATASETS[source["source"]]
        rows = list({json.dumps(row): None for row in generated(dataset, 400)})
        first = {"train": 0, "validation": 40, "evaluate": 60}[part] + 10 * int(label.rpartition("-")[2])
        path = folder / "small_rows" / f"{dataset}-{label}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(rows[first : first + NUM_ROWS[part]]) + "\n", encoding="utf-8")
        source.update(source=str(path), format=dataset)
        for key in ("split", "config", "revision", "rows", "stream"):
            source.pop(key, None)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        recipe = Path(name)
        changed = small(yaml.safe_load(recipe.read_text(encoding="utf-8")), Path.cwd(), os.environ["DOCS_MODEL"])
        recipe.write_text(yaml.safe_dump(changed), encoding="utf-8")
