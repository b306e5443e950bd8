"""What a model folder must be before anything in it is opened: plain safetensors, Llama-shaped, no code of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from whet import cache, json_text
from whet.errors import RecipeError, StorageError

LLAMA_SHAPED = ("llama", "mistral")
"""`model_type` values whose forward pass is Llama's; whet's kernels, packing and exports rely on it."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CONFIGS_WITH_CODE = ("config.json", "tokenizer_config.json", "generation_config.json")


def check_folder(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a folder that whet can load; RecipeError or StorageError with the reason otherwise."""
    if not folder.is_dir():
        raise RecipeError("no such model folder", where=str(folder), mend="check model.id")
    if (folder / "adapter_config.json").exists():
        raise RecipeError(
            "holds an adapter (adapter_config.json), not a whole model",
            where=str(folder),
            mend="name the adapter's base as model.id, or merge the adapter first: whet merge",
        )
    if not (folder / "config.json").is_file():
        raise RecipeError(
            "holds no config.json, so it is not a model folder in Hugging Face format",
            where=str(folder),
            mend="name the folder that holds config.json, model.safetensors and tokenizer.json",
        )
    for name in _CONFIGS_WITH_CODE:
        refuse_own_code(folder / name)
    config = read_json(folder / "config.json")
    _check_shape(config, folder / "config.json")
    return config


def refuse_own_code(path: Path) -> None:
    """RecipeError if a configuration names Python files: transformers would import them, and without them the model may
    be another one than its built-in class computes."""
    if not path.is_file():
        return
    if auto_map := read_json(path).get("auto_map"):
        named = ", ".join(sorted(map(str, auto_map))) if isinstance(auto_map, list | dict) else str(auto_map)
        raise RecipeError(
            f"asks for Python code of its own (auto_map: {named}), which whet never runs",
            where=str(path),
            mend="if the model is a plain Llama, remove auto_map in a local copy and name that folder as model.id",
        )


def _check_shape(config: dict[str, Any], path: Path) -> None:
    kind = config.get("model_type")
    if kind not in LLAMA_SHAPED or config.get("sliding_window") is not None:
        what = f"model_type {kind!r}" if kind not in LLAMA_SHAPED else "attention with a sliding window"
        raise RecipeError(
            f"{what} is not Llama-shaped",
            where=str(path),
            mend=f"choose a model whose model_type is one of {', '.join(LLAMA_SHAPED)} (full attention)",
        )
    if config.get("quantization_config"):
        raise RecipeError(
            "the weights are quantised, so they can neither be trained nor merged exactly",
            where=str(path),
            mend="name the unquantised model as model.id",
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`; StorageError when it is not one."""
    try:
        value = json_text.read_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot be read as JSON ({error})", where=str(path), mend="fetch the file anew") from error
    if not isinstance(value, dict):
        raise StorageError("is not a JSON object", where=str(path), mend="fetch the file anew")
    return value


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model, sorted by name; each one's header has been read."""
    names = _weight_names(folder)
    files = tuple(folder / name for name in sorted(names))
    for path in files:
        _check_safetensors(path)
    return files


def _weight_names(folder: Path) -> set[str]:
    if (folder / "model.safetensors").exists():
        return {"model.safetensors"}
    index_path = folder / "model.safetensors.index.json"
    if not index_path.exists():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        why = f": only pickled weights ({', '.join(pickles)}), which can run code and are never opened"
        raise RecipeError(
            f"no model.safetensors{why if pickles else ''}",
            where=str(folder),
            mend="choose a model with safetensors weights, or convert it where you trust it",
        )
    weight_map = read_json(index_path).get("weight_map")
    names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    if not names or any(Path(name).name != name or not name.isprintable() for name in names):
        raise StorageError("names no weight files of this folder", where=str(index_path), mend="fetch the model anew")
    return names


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except FileNotFoundError as error:
        raise StorageError("this weight file is missing", where=str(path), mend="fetch the model anew") from error
    except (SafetensorError, OSError) as error:
        raise StorageError(
            f"is truncated or not a safetensors file ({error})", where=str(path), mend="fetch the model anew"
        ) from error


def weights_sha256(files: tuple[Path, ...]) -> str:
    """One hash for all weights: `sha256sum model.safetensors`, or of several, `sha256sum *.safetensors | sha256sum`."""
    if len(files) == 1:
        return cache.sha256_of(files[0])
    listing = "".join(f"{cache.sha256_of(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()
